"""Results kept as each piece of an evaluation ends, so that a retry, or a second run, measures only what is missing.

`$NVEMBED_STATE/evaluation/<model>/<piece>/result`, named by what decides them: the model's weights and how it is read;
the data, task sentence and seed; the code that encodes and scores. A result is there whole or not at all, and one that
was changed since is measured anew.
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import output_folder, read_manifest, write_file, write_manifest
from nvembed.core.digests import code_digest, digest_json
from nvembed.core.errors import UserError
from nvembed.core.progress import note
from nvembed.core.state import hold, state_folder

if TYPE_CHECKING:
    from nvembed.evaluation.scoring import Scored

KIND = "evaluated"
SCORES, ITEMS, RANKINGS = "scores.json", "items.parquet", "rankings.json.gz"
_MODULES = ("airbench", "bm25", "predictions", "rankings", "scoring", "statistic", "submission", "tasks", "vectors")
DECIDING = (
    "text",
    "modeling",
    "encoding",
    "evaluation/watching.py",
    "evaluation/wrapper.py",
    *(f"evaluation/{name}.py" for name in _MODULES),
)
"""Code that decides a piece's result. Other changes, of the report say, cost no measurement."""


@dataclass(frozen=True)
class Kept:
    """A piece's result: scores of the whole and of each subset, its items, and what it took."""

    score: float
    scores: dict[str, float]
    subsets: dict[str, float]
    items: Any
    speed: dict[str, float]


def kept_result(
    model: Mapping[str, Any], made_of: Mapping[str, Any], make: Callable[[], tuple[Scored, dict[str, float]]]
) -> Kept:
    """A piece's result with a model: as kept, or made and kept now.

    Args:
        model: all that decides the model's vectors or rankings, as JSON.
        made_of: all else that decides the result.
        make: measures; called only if nothing fitting is kept. Beside the result: seconds it took, by name.
    """
    place = _place(model, made_of)
    with hold(place):
        found = _read(place / "result")
        if found is None:
            started = time.monotonic()
            scored, speed = make()
            _write(place / "result", scored, {"seconds": time.monotonic() - started, **speed}, model, made_of)
            found = _read(place / "result")
            assert found is not None
    return found


def kept_rankings(
    model: Mapping[str, Any], made_of: Mapping[str, Any], make: Callable[[], Mapping[str, Mapping[str, float]]]
) -> Callable[[], dict[str, dict[str, float]]]:
    """Rankings (query → document → score) as kept, or made and kept now; what is returned reads them."""
    place = _place(model, made_of)
    out = place / "result"

    def read() -> dict[str, dict[str, float]]:
        with gzip.open(out / RANKINGS, "rt", encoding="utf-8") as stream:
            found: dict[str, dict[str, float]] = json.load(stream)
        return found

    with hold(place):
        if not _is_whole(out):
            made = make()
            with output_folder(out) as folder:
                with gzip.open(folder / RANKINGS, "wt", encoding="utf-8") as stream:
                    json.dump(made, stream)
                write_manifest(folder, kind=KIND, section={"model": dict(model), **made_of})
    return read


def _place(model: Mapping[str, Any], made_of: Mapping[str, Any]) -> Path:
    piece = digest_json({**made_of, "code": code_digest(*DECIDING)})[:24]
    place = state_folder("evaluation", digest_json(dict(model))) / piece
    place.mkdir(exist_ok=True)
    return place


def _is_whole(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    try:
        read_manifest(folder, kind=KIND, verify=True)
    except UserError as error:
        note(f"{folder}: cannot be used ({error}); measured anew")
        return False
    return True


def _write(
    out: Path, scored: Scored, speed: dict[str, float], model: Mapping[str, Any], made_of: Mapping[str, Any]
) -> None:
    from nvembed.evaluation.items import write_items

    content = {"score": scored.score, "scores": scored.scores, "subsets": scored.subsets}
    with output_folder(out) as folder:
        write_file(folder / SCORES, json.dumps(content, indent=1) + "\n")
        write_items(folder / ITEMS, [(scored.source.split, scored.source.name, scored.items)])
        write_manifest(folder, kind=KIND, section={"model": dict(model), **made_of}, extra={"speed": speed})


def _read(folder: Path) -> Kept | None:
    """What is kept; None if nothing is, or what is there was changed."""
    from nvembed.evaluation.items import read_items

    if not _is_whole(folder):
        return None
    try:
        manifest = read_manifest(folder)
        content = json.loads((folder / SCORES).read_text(encoding="utf-8"))
        ((_, items),) = read_items(folder / ITEMS).items()
    except (UserError, OSError, ValueError, KeyError) as error:
        note(f"{folder}: cannot be used ({error}); measured anew")
        return None
    return Kept(content["score"], content["scores"], content["subsets"], items, dict(manifest.extra["speed"]))
