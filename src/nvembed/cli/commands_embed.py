"""`nvembed embed`: a file of texts becomes a file of vectors, or a folder of them that goes on after a kill."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nvembed.cli.text_files import Text, read_texts
from nvembed.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from nvembed.encoding.shards import Format

_FILES = (".npy", ".parquet")
_NO_FOLDERS = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".npz", ".pt", ".bin", ".safetensors")
_READ_AHEAD = 1000  # rows that are checked before a model is read


@click.command()
@click.argument("model")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--instruction", default="", help="The task sentence, for queries. Documents take none.")
@click.option("--column", default="text", show_default=True, help="Where the text is in .jsonl and .parquet.")
@click.option("--id-column", help="Keep this column of .jsonl or .parquet as `id` beside the vectors (Parquet).")
@click.option("--max-length", type=click.IntRange(min=1), help="Tokens a text may have; default: the model's.")
@click.option("--dimensions", type=click.IntRange(min=1), help="Keep so many dimensions of each vector.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "int8", "binary"]),
    help="What is computed in (auto: bf16 where it is faster), or int8 or binary for smaller vectors. "
    "Default: float32 on a CPU, the model's own type on a GPU.",
)
@click.option("--batch-tokens", type=click.IntRange(min=1), help="Tokens of a batch; halved where memory runs out.")
@click.option("--format", "form", type=click.Choice(["parquet", "npy"]), help="Of a folder's parts; default: parquet.")
@click.option("--shard-size", type=click.IntRange(min=1), help="Texts in one of a folder's parts; default: 20000.")
@click.option("--no-texts", is_flag=True, help="Keep no texts beside the vectors in Parquet.")
@click.option("--device", default="auto", show_default=True, help="auto (all GPUs, or the CPU), cpu, or cuda:0,cuda:1.")
def embed(
    model: str,
    source: Path,
    target: Path,
    column: str,
    id_column: str | None,
    form: Format | None,
    shard_size: int | None,
    no_texts: bool,
    device: str,
    **options: Any,
) -> None:
    """Turn a file of texts into vectors.

    MODEL is a model folder or a hub id. IN is .txt (a text a line), .jsonl or .parquet. OUT is .npy (one row a text, in
    the same order), .parquet (text and vector), or else a folder of numbered parts, for any number of texts: killed
    and started again, it goes on where it stopped.
    """
    _check_target(target, form, shard_size, id_column)
    texts = read_texts(source, column, id_column)
    texts = _look_ahead(source, texts, whole=target.suffix in _FILES)
    devices = find_devices(device)
    import torch

    from nvembed import NVEmbedModel

    dtype = torch.float32 if options["precision"] == "float32" else None
    loaded = NVEmbedModel.from_pretrained(model, device=devices[0], dtype=dtype)
    options = {name: value for name, value in options.items() if value is not None}
    if len(devices) > 1:  # each process reads the model itself; this one only hands out texts
        loaded.to("cpu")
        options |= {"devices": devices, "saved": Path(model)}
    if target.suffix in _FILES:
        rows, width = _to_file(loaded, list(texts), target, options, keep_texts=not no_texts)
        click.echo(f"{rows} texts, {width} dimensions: {target}")
        return
    from nvembed.encoding import encode_stream

    options |= {"shard_size": shard_size} if shard_size else {}
    done = encode_stream(loaded, texts, target, format=form or "parquet", keep_texts=not no_texts, **options)
    kept = "" if done.made == done.shards else f", {done.shards - done.made} of them there already"
    width = options.get("dimensions", loaded.dim)
    click.echo(f"{done.rows} texts, {width} dimensions, {done.shards} parts{kept}: {target}")


def _check_target(target: Path, form: str | None, shard_size: int | None, id_column: str | None) -> None:
    if target.suffix in _NO_FOLDERS:
        raise UserError(f"OUT {target}: write to {' or '.join(_FILES)}, or name a folder")
    if target.suffix in _FILES:
        if form or shard_size:
            option = "--format" if form else "--shard-size"
            raise UserError(f"{option}: is for a folder of parts, and OUT {target} is one file; leave it out")
        if not target.absolute().parent.is_dir():
            raise UserError(f"OUT {target}: there is no folder {target.absolute().parent}; make it first")
    if id_column and "npy" in (form, target.suffix.removeprefix(".")):
        raise UserError(f"--id-column {id_column}: .npy has no place for ids; write Parquet")


def _look_ahead(source: Path, texts: Iterator[Text], *, whole: bool) -> Iterator[Text]:
    """The same texts, the first of them (or all) read and found good. Raises UserError if there are none."""
    head = list(texts if whole else islice(texts, _READ_AHEAD))
    if not head:
        raise UserError(f"IN {source}: is empty; there is nothing to embed")
    return chain(head, texts)


def _to_file(
    model: Any, rows: list[Text], target: Path, options: dict[str, Any], *, keep_texts: bool
) -> tuple[int, int]:
    """Encode everything in memory and write one file; rows and dimensions."""
    from nvembed.modeling.encoder import encode_texts

    ids = [row[0] for row in rows if isinstance(row, tuple)]
    texts = [row[1] if isinstance(row, tuple) else row for row in rows]
    columns = {"id": ids} if ids else {}
    vectors = encode_texts(model, texts, label="embedding", **options)
    write_vectors(target, vectors, columns | ({"text": texts} if keep_texts else {}))
    return len(texts), options.get("dimensions", model.dim)


def write_vectors(target: Path, vectors: np.ndarray, columns: dict[str, list[str]]) -> None:
    """Write (n, width) vectors whole or not at all; `.parquet` keeps string columns beside them."""
    from nvembed.encoding.shards import write_npy, write_parquet

    try:
        if target.suffix == ".npy":
            write_npy(vectors, target)
        else:
            write_parquet(vectors, target, columns)
    except OSError as error:
        raise UserError(f"OUT {target}: cannot be written ({error.strerror or error})") from error


def find_devices(asked: str) -> list[str]:
    """torch's names of the devices asked for: `auto` is every GPU, or the CPU where there is none. Raises UserError."""
    import torch

    from nvembed.modeling.plan import check_devices

    if asked == "auto":
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]
    names = [name.strip() for name in asked.split(",")]
    if not torch.cuda.is_available() and any(name.startswith("cuda") for name in names):
        raise UserError(f"--device {asked}: this machine has no usable GPU; take --device cpu")
    check_devices(names)
    return names
