"""Any number of texts to a folder of vectors, in bounded memory; killed and called again, it goes on where it stopped.

Texts are taken `shard_size` at a time. Within such a shard equal texts are encoded once and batches hold texts of like
length. A finished shard is skipped if it was made from the same texts: they are only read and digested.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, get_args

from nvembed.core.artifacts import MANIFEST, write_file, write_manifest
from nvembed.core.digests import digest_json
from nvembed.core.errors import UserError
from nvembed.core.progress import Progress
from nvembed.core.state import hold
from nvembed.encoding.shards import KIND, SETTINGS, Format, Shard, is_finished, parts_from, write_shard
from nvembed.modeling.encoder import TextEncoder, encode_distinct, open_encoder
from nvembed.modeling.plan import Plan, PlanOptions, make_plan
from nvembed.text import check_texts

if TYPE_CHECKING:
    from nvembed.modeling import NVEmbedModel

SHARD_SIZE = 20_000
LOCK = ".lock"
Text = str | tuple[str, str]


@dataclass(frozen=True)
class Streamed:
    """What came of it: the folder, its rows and shards, and how many of the shards this call made."""

    folder: Path
    rows: int
    shards: int
    made: int


def encode_stream(
    model: NVEmbedModel,
    texts: Iterable[Text],
    out: Path | str,
    *,
    shard_size: int = SHARD_SIZE,
    format: Format = "parquet",
    keep_texts: bool = True,
    devices: Sequence[str] | None = None,
    saved: Path | None = None,
    label: str = "embedding",
    **options: Unpack[PlanOptions],
) -> Streamed:
    """Write the vectors of `texts`, in their order, as parts of the folder `out`; read them with `read_vectors`.

    Called again with the same model, options and texts it makes only what is missing, and with more or other texts
    only what differs. The folder is held by a lock meanwhile, and has a manifest (kind `vectors`) only when finished.

    Args:
        texts: strings, or pairs (id, text); a generator over a file that does not fit into memory will do.
        out: a new folder, or one that the same call has begun.
        shard_size: texts a part. Memory holds one part's texts, tokens and vectors.
        format: `parquet`, or `npy` for parts that are memory-mapped (without ids and texts).
        keep_texts: keep the texts beside their vectors in `parquet`.
        devices: one process each; None: this process, where the model lies.
        saved: with `devices`, a folder that holds this very model, which spares writing it anew.
        label: what the progress line says.
        options: as of `NVEmbedModel.encode`.

    Raises UserError for what is not a string (parts before it stay), a folder made with other settings or holding
    other files, and options that cannot be.
    """
    plan = make_plan(model, devices=devices, **options)
    _check(shard_size, format)
    total = len(texts) if isinstance(texts, Sized) else None
    items, has_ids = _look_ahead(texts)
    if has_ids and format == "npy":
        raise UserError("format 'npy': has no place for ids; give texts alone, or take format 'parquet'")
    settings = {
        "model": model.fingerprint(),
        **plan.settings(model),
        "shard_size": shard_size,
        "format": format,
        "ids": has_ids,
        "texts": keep_texts and format == "parquet",
    }
    out = _prepare(Path(out))
    with hold(out), contextlib.ExitStack() as stack:
        _agree(out, settings)
        writer = _Writer(out, settings, plan, Progress(label, total))
        for shard in _shards(items, shard_size, has_ids):
            if not is_finished(out, shard, format):
                writer.encoder = writer.encoder or stack.enter_context(open_encoder(model, plan, devices, saved))
                writer.write(shard)
            writer.count(shard)
        return writer.finish()


class _Writer:
    """Fills a folder that is held. A manifest that stands there goes before anything else changes."""

    def __init__(self, folder: Path, settings: dict[str, Any], plan: Plan, progress: Progress) -> None:
        self.folder, self.settings, self.plan, self.progress = folder, settings, plan, progress
        self.encoder: TextEncoder | None = None
        self.sizes: list[int] = []
        self.digests: list[str] = []
        self.rows = self.made = 0

    def write(self, shard: Shard) -> None:
        """Encode a shard's texts and write its part."""
        assert self.encoder is not None
        self._manifest.unlink(missing_ok=True)
        vectors = encode_distinct(self.encoder, shard.texts, lambda done: self.progress.update(self.rows + done))
        write_shard(self.folder, shard, vectors, self.settings["format"], keep_texts=self.settings["texts"])
        self.made += 1

    def count(self, shard: Shard) -> None:
        """Take a finished shard into account."""
        self.sizes.append(len(shard.texts))
        self.digests.append(shard.digest)
        self.rows += len(shard.texts)
        self.progress.update(self.rows)

    def finish(self) -> Streamed:
        """Drop parts of a longer input, and say in the manifest what is here."""
        self.progress.close()
        for surplus in parts_from(self.folder, len(self.sizes)):
            self._manifest.unlink(missing_ok=True)
            surplus.unlink()
        if not self._manifest.is_file():
            empty = self.plan.empty(0)
            write_manifest(
                self.folder,
                kind=KIND,
                section=self.settings,
                inputs={"model": self.settings["model"], "texts": digest_json(self.digests)},
                counts={"rows": self.rows, "shards": len(self.sizes)},
                extra={"rows": self.sizes, "columns": empty.shape[1], "dtype": empty.dtype.name},
            )
        return Streamed(self.folder, self.rows, len(self.sizes), self.made)

    @property
    def _manifest(self) -> Path:
        return self.folder / MANIFEST


def _check(shard_size: int, form: str) -> None:
    if not isinstance(shard_size, int) or shard_size < 1:
        raise UserError(f"shard_size {shard_size!r}: give a positive whole number")
    if form not in get_args(Format):
        raise UserError(f"format {form!r} is unknown; known: {', '.join(get_args(Format))}")


def _look_ahead(texts: Iterable[Text]) -> tuple[Iterator[Text], bool]:
    """The texts as an iterator, and whether they come with ids: the first one says."""
    if isinstance(texts, str | bytes):
        check_texts(texts)
    items = iter(texts)
    head = list(islice(items, 1))
    return chain(head, items), bool(head) and isinstance(head[0], tuple)


def _shards(items: Iterator[Text], size: int, has_ids: bool) -> Iterator[Shard]:
    for number in count():
        block = list(islice(items, size))
        if not block:
            return
        first = number * size
        ids = [_id_of(item, place) for place, item in enumerate(block, first)] if has_ids else []
        texts: list[Any] = [item[1] for item in block] if has_ids else block
        yield Shard(number, ids, check_texts(texts, first))


def _id_of(item: Any, place: int) -> str:
    if not isinstance(item, tuple) or len(item) != 2 or not isinstance(item[0], str):
        raise UserError(f"texts[{place}]: is no pair (id, text) of strings, as the first one is")
    return item[0]


def _prepare(out: Path) -> Path:
    """The folder, made if it is missing. Raises UserError for one that holds anything else."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made a folder ({error.strerror}); name another") from error
    if not (out / SETTINGS).is_file() and any(path.name != LOCK for path in out.iterdir()):
        raise UserError(f"{out}: holds other files; name a new folder")
    return out


def _agree(out: Path, settings: dict[str, Any]) -> None:
    """Write down how the parts are made, or compare with what is written there. Raises UserError if it differs."""
    file = out / SETTINGS
    for leftover in out.glob(".*.partial"):
        leftover.unlink()
    if not file.is_file():
        write_file(file, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
        return
    try:
        found = dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError:
        raise UserError(f"{file}: cannot be read; remove the folder, or name another") from None
    for name in {**found, **settings}:
        if found.get(name) != settings.get(name):
            was, asked = (repr(values.get(name)) for values in (found, settings))
            what = "another model" if name == "model" else f"{name} {was}, not {asked}"
            raise UserError(f"{out}: was made with {what}; name a new folder, or remove this one")
