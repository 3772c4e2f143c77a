"""The ground floor: errors, digests, artifacts, state, progress. Standard library only; every room may use it."""
