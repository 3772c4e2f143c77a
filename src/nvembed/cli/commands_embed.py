"""`nvembed embed`: a file of texts becomes a file of vectors."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nvembed.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

_READABLE, _WRITABLE = (".txt", ".jsonl", ".parquet"), (".npy", ".parquet")


@click.command()
@click.argument("model")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--instruction", default="", help="The task sentence, for queries. Documents take none.")
@click.option("--column", default="text", show_default=True, help="Where the text is in .jsonl and .parquet.")
@click.option("--max-length", type=click.IntRange(min=1), help="Tokens a text may have; default: the model's.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
def embed(
    model: str, source: Path, target: Path, instruction: str, column: str, max_length: int | None, device: str
) -> None:
    """Turn a file of texts into vectors.

    MODEL is a model folder or a hub id. IN is .txt (a text a line), .jsonl or .parquet. OUT is .npy (one float32 row a
    text, in the same order) or .parquet (text and vector).
    """
    if target.suffix not in _WRITABLE:
        raise UserError(f"OUT {target}: write to {' or '.join(_WRITABLE)}")
    if not target.absolute().parent.is_dir():
        raise UserError(f"OUT {target}: there is no folder {target.absolute().parent}; make it first")
    texts = read_texts(source, column)
    from nvembed import NVEmbedModel

    loaded = NVEmbedModel.from_pretrained(model)
    loaded.to(_device(device))
    vectors = loaded.encode(texts, instruction=instruction, max_length=max_length)
    write_vectors(target, texts, vectors)
    click.echo(f"{len(texts)} texts, {vectors.shape[1]} dimensions: {target}")


def read_texts(source: Path, column: str) -> list[str]:
    """Texts of a .txt, .jsonl or .parquet file, in its order.

    Raises:
        UserError: another kind of file, unreadable, without the column, a row without a text, or no text at all.
    """
    if source.suffix not in _READABLE:
        raise UserError(f"IN {source}: give a file ending in {', '.join(_READABLE)}")
    if not source.is_file():
        raise UserError(f"IN {source}: there is no such file; check the path")
    try:
        rows = _rows(source, column)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"IN {source}: cannot be read ({error})") from error
    for number, text in enumerate(rows, 1):
        if not isinstance(text, str):
            raise UserError(f"IN {source}, row {number}: no text in {column!r}; name the text's column with --column")
    if not rows:
        raise UserError(f"IN {source}: is empty; there is nothing to embed")
    return rows


def _rows(source: Path, column: str) -> list[str]:
    if source.suffix == ".txt":
        # only a line feed ends a line: str.splitlines would also cut at the separators that texts contain
        return source.read_text(encoding="utf-8").removesuffix("\n").split("\n") if source.stat().st_size else []
    if source.suffix == ".parquet":
        return _parquet_rows(source, column)
    rows: list[str] = []
    for number, line in enumerate(source.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"IN {source}, line {number}: not JSON ({error})") from error
        rows.append(row.get(column, "") if isinstance(row, dict) and isinstance(row.get(column), str) else row)
    return rows


def _parquet_rows(source: Path, column: str) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(source).names
        if column not in names:
            raise UserError(f"IN {source}: no column {column!r}; there are {', '.join(names)}; choose with --column")
        rows: list[str] = pq.read_table(source, columns=[column]).column(column).to_pylist()
    except pa.ArrowInvalid as error:
        raise UserError(f"IN {source}: not a Parquet file ({error})") from error
    return rows


def write_vectors(target: Path, texts: list[str], vectors: np.ndarray) -> None:
    """Write float32 (n, dim) vectors whole or not at all; `.parquet` keeps the texts beside them."""
    import numpy as np

    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        if target.suffix == ".npy":
            with aside.open("wb") as stream:
                np.save(stream, vectors)
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
            pq.write_table(pa.table({"text": texts, "vector": column}), aside)
        aside.replace(target)
    except OSError as error:
        raise UserError(f"OUT {target}: cannot be written ({error.strerror})") from error
    finally:
        aside.unlink(missing_ok=True)


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {name}: this machine has no usable GPU; take --device cpu")
    return name
