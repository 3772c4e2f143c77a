"""Many texts to vectors: batches by token budget, equal texts once, an embedding cache."""

from nvembed.encoding.encode import encode, encode_cached

__all__ = ["encode", "encode_cached"]
