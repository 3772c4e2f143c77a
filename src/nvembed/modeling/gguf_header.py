"""The first few facts of a GGUF file, read off its header: the reader libraries parse the whole vocabulary first."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


def read_header(file: Path) -> dict[str, Any]:
    """The scalar and text entries of a GGUF file's header, up to the tokenizer's.

    Source: the GGUF specification of ggml, version 2 and 3. Raises ValueError for what is no such file.
    """
    entries: dict[str, Any] = {}
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF" or _scalar(stream, "<I") < 2:
            raise ValueError(f"{file} is no GGUF file of version 2 or later")
        _scalar(stream, "<Q")  # the number of tensors
        for _ in range(_scalar(stream, "<Q")):
            key = _text(stream)
            kind = _scalar(stream, "<I")
            if key.startswith("tokenizer."):
                break
            value = _value(stream, kind)
            if kind != _ARRAY:
                entries[key] = value
    return entries


def _value(stream: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _text(stream)
    if kind == _ARRAY:
        item, count = _scalar(stream, "<I"), _scalar(stream, "<Q")
        return [_value(stream, item) for _ in range(count)]
    return _scalar(stream, _SCALARS[kind])


def _scalar(stream: BinaryIO, form: str) -> Any:
    (value,) = struct.unpack(form, stream.read(struct.calcsize(form)))
    return value


def _text(stream: BinaryIO) -> str:
    return stream.read(_scalar(stream, "<Q")).decode("utf-8", "replace")
