"""The ground floor: errors, digests, artifacts, state, progress. Standard library only, so that every room may use it."""
