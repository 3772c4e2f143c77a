"""Many texts to vectors: batches by token budget, equal texts once, several devices, shards, an embedding cache."""

from nvembed.encoding.blocks import encode_blocks
from nvembed.encoding.encode import encode, encode_cached
from nvembed.encoding.parts import Parts
from nvembed.encoding.shards import Vectors, read_vectors
from nvembed.encoding.stream import Streamed, encode_stream

__all__ = [
    "Parts",
    "Streamed",
    "Vectors",
    "encode",
    "encode_blocks",
    "encode_cached",
    "encode_stream",
    "read_vectors",
]
