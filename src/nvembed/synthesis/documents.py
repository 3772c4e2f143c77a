"""Documents to passages: files found and read, cut by headings and length, with overlap.

A passage carries the headings above it as its first line ("Guide > Install"), so that it can be understood, and found,
by itself. Passages of one document that follow each other share words; which ones touch is told by `place`.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from nvembed.core.digests import digest_json
from nvembed.core.errors import UserError
from nvembed.core.progress import track
from nvembed.data.store import document_id
from nvembed.synthesis.cutting import cut_sections, markdown_sections

if TYPE_CHECKING:
    from nvembed.recipe import Synthesis

_KINDS = {
    **dict.fromkeys((".txt", ".text", ".rst"), "text"),
    **dict.fromkeys((".md", ".markdown", ".mdx"), "markdown"),
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a document. `place` counts the passages of its document from 0."""

    id: str
    document: str
    place: int
    text: str


@dataclass
class Documents:
    """What a place holds. `skipped` counts what could not be used, by reason."""

    passages: list[Passage]
    documents: int
    digest: str
    skipped: dict[str, int] = field(default_factory=dict)


def read_documents(section: Synthesis) -> Documents:
    """Read and cut every document of `section.documents`, a file or a folder, here or in a store fsspec knows.

    Passages are in the order of the files' names; equal ones stand once.

    Raises:
        UserError: no such place, no file of a wanted format there, or none with text.
    """
    assert section.documents is not None
    found = Documents([], 0, "")
    digests, seen = [], set[str]()
    for name, raw in track(_files(section), "reading documents"):
        digests.append([name, hashlib.sha256(raw).hexdigest()])
        for document, text, headed in _texts(name, raw, section, found.skipped):
            sections = markdown_sections(text) if headed else [((), text)]
            pieces = cut_sections(sections, section.passages)
            if not pieces:
                _count(found.skipped, "document without text")
                continue
            found.documents += 1
            for place, piece in enumerate(pieces):
                if piece in seen:
                    _count(found.skipped, "passage that stands twice")
                    continue
                seen.add(piece)
                found.passages.append(Passage(document_id(piece), document, place, piece))
    if not found.passages:
        why = ", ".join(f"{number} × {reason}" for reason, number in found.skipped.items())
        raise UserError(
            f"synthesis.documents: {section.documents}: holds no text to ask about ({why or 'its files are empty'}); "
            "give documents with text"
        )
    found.digest = digest_json(digests)
    return found


def documents_digest(section: Synthesis) -> str:
    """Digest of the names and bytes of all files that are read. Raises UserError as `read_documents` does."""
    return read_documents(section).digest


def _files(section: Synthesis) -> Iterator[tuple[str, bytes]]:
    """Names, relative to the place, and bytes of the files of wanted formats, one after another."""
    import fsspec

    path, wanted = str(section.documents), set(section.passages.formats)
    try:
        filesystem, root = fsspec.core.url_to_fs(path)
        if not filesystem.exists(root):
            raise UserError(f"synthesis.documents: {path}: there is no such file or folder; check the path")
        files = sorted(filesystem.find(root)) if filesystem.isdir(root) else [root]
        named = [(name, file) for file in files if (name := _name(file, root)) is not None]
        chosen = [(name, file) for name, file in named if _KINDS.get(PurePosixPath(name).suffix.lower()) in wanted]
        if not chosen:
            raise UserError(
                f"synthesis.documents: {path}: holds no file of the formats {', '.join(section.passages.formats)} "
                f"({', '.join(_KINDS)}); it has {len(files)} of other kinds"
            )
        for name, file in chosen:
            yield name, filesystem.cat_file(file)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"synthesis.documents: {path}: cannot be read ({error}); check the path") from error


def _name(file: str, root: str) -> str | None:
    """A file's path under the root; None for what is hidden."""
    inner = file[len(root) :].lstrip("/") if file != root else PurePosixPath(file).name
    return None if any(part.startswith(".") for part in PurePosixPath(inner).parts) else inner


def _texts(name: str, raw: bytes, section: Synthesis, skipped: dict[str, int]) -> Iterator[tuple[str, str, bool]]:
    """Documents of a file: name, text, and whether it has Markdown headings."""
    kind = _KINDS[PurePosixPath(name).suffix.lower()]
    if kind in ("text", "markdown"):
        try:
            yield name, raw.decode("utf-8-sig"), kind == "markdown"
        except UnicodeDecodeError:
            _count(skipped, "file that is not UTF-8")
        return
    columns = section.passages
    for number, row in enumerate(_rows(kind, raw, name, skipped)):
        text, title = row.get(columns.text_column), row.get(columns.title_column)
        if not isinstance(text, str):
            _count(skipped, f"row without text in column {columns.text_column!r}")
            continue
        head = f"# {title.strip()}\n\n" if isinstance(title, str) and title.strip() else ""
        yield f"{name}#{number}", head + text, True


def _rows(kind: str, raw: bytes, name: str, skipped: dict[str, int]) -> Iterator[dict[str, Any]]:
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            for batch in pq.ParquetFile(io.BytesIO(raw)).iter_batches():
                yield from batch.to_pylist()
        except pa.ArrowException as error:
            raise UserError(f"synthesis.documents: {name}: cannot be read as Parquet ({error})") from error
        return
    for line in raw.splitlines():
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield row
        elif line.strip():
            _count(skipped, "line that is no JSON object")


def _count(counts: dict[str, int], reason: str) -> None:
    counts[reason] = counts.get(reason, 0) + 1
