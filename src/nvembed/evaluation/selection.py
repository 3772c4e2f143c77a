"""Which MTEB tasks a recipe's evaluation section names: benchmarks and single tasks, chosen by type and language.

A task of mteb's that is made of several (CQADupstack's twelve forums) or evaluated on several splits is one task here:
its parts are measured one by one, and its score is the mean over them, as mteb's is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nvembed.core.errors import UserError

if TYPE_CHECKING:
    from mteb.abstasks.abstask import AbsTask

    from nvembed.recipe import Evaluation

UNKNOWN_COST = 10_000_000
"""Characters that a task is taken to hold if mteb does not know: a middling one's."""


@dataclass(frozen=True)
class Part:
    """A task of mteb's on one split. `make` gives a fresh one, so that its random states start equal for every model.

    `label` tells the parts of a task apart; "" where there is but one.
    """

    name: str
    hf_split: str
    subsets: tuple[str, ...]
    label: str = ""

    def make(self) -> AbsTask:
        """The task, its data not loaded."""
        import mteb

        return mteb.get_task(self.name, hf_subsets=list(self.subsets), eval_splits=[self.hf_split])


@dataclass(frozen=True)
class Chosen:
    """A task that was asked for; `about` is mteb's metadata, of the whole where it has parts."""

    name: str
    parts: tuple[Part, ...]
    about: Any

    @property
    def cost(self) -> int:
        """Characters to be read: how long it takes, up to a factor."""
        return sum(_characters(part) for part in self.parts)


def choose_tasks(evaluation: Evaluation) -> list[Chosen]:
    """The MTEB tasks of a section, in the order named, each once.

    Raises:
        UserError: a benchmark, task, type or language that mteb does not know (the nearest are named), a task that is
            not of texts alone, filters that leave nothing.
    """
    if not (evaluation.benchmarks or evaluation.tasks):  # importing mteb takes seconds
        return []
    _check_filters(evaluation)
    found: dict[str, Chosen] = {}
    for task in _named(evaluation):
        chosen = _chosen(task, evaluation)
        if chosen is not None:
            found.setdefault(chosen.name, chosen)
    if not found:
        raise UserError(
            f"evaluation: no task of {', '.join([*evaluation.benchmarks, *evaluation.tasks])} is of task_types "
            f"{', '.join(evaluation.task_types) or 'any'} and languages {', '.join(evaluation.languages) or 'any'}"
        )
    return list(found.values())


def nearest(word: str, known: Iterable[str]) -> str:
    """Known words like this one, in words of a message."""
    # by lower case, since mteb's names mix both in many ways
    spelt = {one.lower(): one for one in sorted(known, reverse=True)}
    near = [spelt[one] for one in difflib.get_close_matches(word.lower(), list(spelt), n=3, cutoff=0.5)]
    return f"did you mean {' or '.join(map(repr, near))}?" if near else "see mteb's list"


def _named(evaluation: Evaluation) -> Iterator[AbsTask]:
    import mteb

    for name in evaluation.benchmarks:
        try:
            yield from mteb.get_benchmark(name).tasks
        except KeyError:
            hint = nearest(name, _benchmark_names())
            if _is_task(name):
                hint = "it is a task; name it under evaluation.tasks"
            raise UserError(f"evaluation.benchmarks: {name!r} is no benchmark of MTEB; {hint}") from None
    for name in evaluation.tasks:
        if not _is_task(name):
            hint = nearest(name, _task_names())
            if name in _benchmark_names():
                hint = "it is a benchmark; name it under evaluation.benchmarks"
            raise UserError(f"evaluation.tasks: {name!r} is no task of MTEB; {hint}")
        yield mteb.get_task(name)


def _benchmark_names() -> set[str]:
    import mteb

    return {one.name for one in mteb.get_benchmarks()}  # makes all their tasks, which takes seconds


def _is_task(name: str) -> bool:
    return name in _task_names()


def _task_names() -> set[str]:
    return set(_registry())


def _registry() -> dict[str, Any]:
    # the public `get_tasks` makes every task and warns of some hundred
    from mteb.get_tasks import _TASKS_REGISTRY

    return dict(_TASKS_REGISTRY)


def _chosen(task: AbsTask, evaluation: Evaluation) -> Chosen | None:
    about = task.metadata
    if about.modalities != ["text"]:
        raise UserError(f"evaluation: {about.name} is a task of {' and '.join(about.modalities)}, not of texts alone")
    if evaluation.task_types and about.type not in evaluation.task_types:
        return None
    whole = getattr(task, "tasks", None)
    parts = [part for one in whole or [task] for part in _parts(one, evaluation.languages, inner=bool(whole))]
    return Chosen(about.name, tuple(parts), about) if parts else None


def _parts(task: AbsTask, languages: list[str], *, inner: bool) -> Iterator[Part]:
    about = task.metadata
    subsets = [subset for subset in task.hf_subsets if _speaks(about.eval_langs, subset, languages)]
    splits = list(task.eval_splits)
    for split in splits if subsets else []:
        label = "/".join([*([about.name] if inner else []), *([split] if len(splits) > 1 else [])])
        yield Part(about.name, split, tuple(subsets), label)


def _speaks(spoken: Any, subset: str, languages: list[str]) -> bool:
    """Whether a subset is in one of the languages, given as mteb does: `eng` or `eng-Latn`."""
    own = spoken[subset] if isinstance(spoken, dict) else spoken
    return not languages or any(language in (one, one.split("-")[0]) for one in own for language in languages)


def _check_filters(evaluation: Evaluation) -> None:
    known = [task.metadata for task in _registry().values()]
    types = {str(about.type) for about in known}
    for kind in evaluation.task_types:
        if kind not in types:
            raise UserError(f"evaluation.task_types: {kind!r} is no type of MTEB's; {nearest(kind, types)}")
    spoken = {code for about in known for code in about.bcp47_codes} if evaluation.languages else set()
    spoken |= {code.split("-")[0] for code in spoken}
    for language in evaluation.languages:
        if language not in spoken:
            raise UserError(
                f"evaluation.languages: {language!r} is no language of MTEB's; give three letters, as eng or deu, or "
                "these with a script, as eng-Latn"
            )


def _characters(part: Part) -> int:
    """Characters of a part's texts by mteb's own statistics."""
    stats = (_registry()[part.name].metadata.descriptive_stats or {}).get(part.hf_split)
    if not stats:
        return UNKNOWN_COST
    inner = stats.get("hf_subset_descriptive_stats") or {}
    rows = [inner[subset] for subset in part.subsets if subset in inner] or [stats]
    return sum(_length(row) for row in rows) or UNKNOWN_COST


def _length(stats: dict[str, Any]) -> int:
    if known := stats.get("number_of_characters"):
        return int(known)
    texts = [value for name, value in stats.items() if name.endswith("_statistics") or name == "text_statistics"]
    return sum(int(value.get("total_text_length") or 0) for value in texts if isinstance(value, dict))
