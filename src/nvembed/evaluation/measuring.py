"""A candidate's planned tasks, one after the other: kept results are taken, what fails is written down."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nvembed.core.errors import UserError
from nvembed.core.progress import Progress, note
from nvembed.evaluation import airbench, submission
from nvembed.evaluation.items import Items
from nvembed.evaluation.kept import Kept, kept_rankings, kept_result

if TYPE_CHECKING:
    from nvembed.evaluation.airbench import AirSet
    from nvembed.evaluation.instructions import Instruction
    from nvembed.evaluation.plan import Piece, Planned
    from nvembed.evaluation.results import Key
    from nvembed.evaluation.scoring import Scored
    from nvembed.evaluation.vectors import Vectors
    from nvembed.recipe import AirBench

Entries = dict[str, list[tuple[str, Callable[[], str]]]]
"""Version → place in its zip and what makes the text there."""
logger = logging.getLogger(__name__)
SUBMISSION = "submission"
"""Stands for a split where rankings could not be written."""


@dataclass(frozen=True)
class Reader:
    """A way to read a candidate; `open` loads it: a model in mteb's sense, and what decides what it does, as JSON."""

    variant: str
    open: Callable[[], tuple[Any, Mapping[str, Any]]]


class Measured:
    """What came out of some tasks.

    Attributes:
        variants: way of reading → results, in the order planned.
        errors: (split, task) → why it failed, in one line.
        files: zips of rankings to hand in, by their place in the evaluation folder.
    """

    def __init__(self, tasks: Sequence[Planned]) -> None:
        self._tasks = tasks
        self.variants: dict[str, list[Scored]] = {}
        self.errors: dict[Key, str] = {}
        self.files: dict[str, Iterable[tuple[str, str]]] = {}
        self._seconds, self._texts = 0.0, 0

    def run(self, readers: Sequence[Reader]) -> None:
        """Measure all tasks, each in all ways."""
        progress = Progress("tasks", len(readers) * len(self._tasks))
        for reader in readers:
            self.variants[reader.variant] = []
            opened = _Opened(*reader.open()) if self._tasks else None
            for task in self._tasks:
                progress.update(progress.done, f"{task.split} {task.name}")
                self._attempt(task.key, self._measure, task, opened, self.variants[reader.variant])
                progress.update(progress.done + 1)

    def rank(self, sets: Sequence[AirSet], air: AirBench, reader: Reader, name: str) -> None:
        """Rank the test sets of AIR-Bench, to be handed in under the model's `name`."""
        if not sets:
            return
        opened, progress = _Opened(*reader.open()), Progress("rankings", len(sets))
        made: Entries = {}
        for one in sets:
            progress.update(progress.done, one.name)
            self._attempt((SUBMISSION, one.name), self._rank, one, air, opened, name, made)
            progress.update(progress.done + 1)
        self.files = {submission.zip_name(version, name): _texts(entries) for version, entries in made.items()}

    @property
    def speed(self) -> dict[str, Any]:
        """Seconds of encoding, texts, texts a second; of results that were kept, what they took then."""
        speed: dict[str, Any] = {"encoding_seconds": round(self._seconds, 2), "texts": self._texts}
        if self._texts:
            speed["texts_per_second"] = round(self._texts / max(self._seconds, 1e-9), 1)
        return speed

    def _attempt(self, key: Key, do: Callable[..., None], *given: Any) -> None:
        """Do it; if it fails say so, write it down and go on."""
        try:
            do(*given)
        except Exception as error:  # a task's data, mteb's code, memory: whatever it is, the others shall be measured
            logger.warning("%s %s failed", *key, exc_info=True)
            said = " ".join(str(error).split())[:500]
            said = said if isinstance(error, UserError) else f"{type(error).__name__}: {said}"
            self.errors.setdefault(key, said)
            note(f"{key[1]} ({key[0]}) failed and is left out: {said[:200]}")

    def _measure(self, task: Planned, opened: _Opened, scored: list[Scored]) -> None:
        kept = []
        for piece in task.pieces:
            found = kept_result(opened.made_by, piece.made_of, partial(opened.score, piece))
            self._seconds += found.speed.get("encoding_seconds", 0.0)
            self._texts += int(found.speed.get("texts", 0))
            kept.append((piece.label, found))
        scored.append(_whole(task, kept))
        logger.info("%s %s: %s %.4f", task.split, task.name, task.main_score, scored[-1].score)

    def _rank(self, one: AirSet, air: AirBench, opened: _Opened, name: str, made: Entries) -> None:
        read = kept_rankings(opened.made_by, submission.made_of_rankings(one, air), partial(opened.rank, one, air))
        entry = (submission.place_of(one), lambda: submission.submission(one, read(), name))
        made.setdefault(one.version, []).append(entry)


class _Opened:
    """A loaded model, and what decides what it does."""

    def __init__(self, model: Any, made_by: Mapping[str, Any]) -> None:
        self._model, self.made_by = model, made_by

    def score(self, piece: Piece) -> tuple[Scored, dict[str, float]]:
        """A piece's result, and what encoding took."""
        vectors = self._begin(piece.told, piece.own_instructions)
        if vectors is None:
            return piece.score(self._model), {}
        seconds, texts = vectors.seconds, vectors.texts_encoded
        scored = piece.score(self._model)
        return scored, {"encoding_seconds": vectors.seconds - seconds, "texts": vectors.texts_encoded - texts}

    def rank(self, one: AirSet, air: AirBench) -> dict[str, dict[str, float]]:
        """Test rankings."""
        self._begin(airbench.told(air), {})
        return submission.rankings(one, self._model)

    def _begin(self, told: Instruction | None, own: Mapping[str, str]) -> Vectors | None:
        """Tell the model of the next task; None for BM25, which knows no instructions and encodes nothing."""
        vectors: Vectors | None = getattr(self._model, "vectors", None)
        if vectors is not None:
            self._model.begin_task(told, own)
        return vectors


def _whole(task: Planned, kept: Sequence[tuple[str, Kept]]) -> Scored:
    """A task's result from its pieces': the mean of their scores, as mteb's is."""
    from nvembed.evaluation.scoring import MTEBSource, Scored

    source = MTEBSource(task.split, task.name, task.type, task.main_score, task.instruction, task.hf_split)
    if len(kept) == 1:
        ((_, only),) = kept
        return Scored(source, only.score, only.scores, only.items, only.subsets)
    subsets = {_label(label, name): score for label, one in kept for name, score in one.subsets.items()}
    names = [name for name in kept[0][1].scores if all(name in one.scores for _, one in kept)]
    return Scored(
        source,
        float(np.mean(list(subsets.values()))),
        {name: float(np.mean([one.scores[name] for _, one in kept])) for name in names},
        Items.join([_relabelled(one.items, label) for label, one in kept]),
        subsets,
    )


def _label(label: str, subset: str) -> str:
    return label if subset == "default" else f"{label}/{subset}"


def _relabelled(items: Items, label: str) -> Items:
    import pyarrow as pa

    table = items.table
    own = pa.array([_label(label, name) for name in table["subset"].to_pylist()], pa.string())
    return Items(table.set_column(table.column_names.index("subset"), "subset", own))


def _texts(entries: Sequence[tuple[str, Callable[[], str]]]) -> Iterator[tuple[str, str]]:
    """Names and texts, each made only when it is written."""
    for place, text in sorted(entries, key=lambda entry: entry[0]):
        yield place, text()
