"""What one candidate is measured on, cut into pieces, and how the pieces are shared out.

A planned task is a row of the results. Its pieces are scored and kept one by one: a local set is one piece, a task of
mteb's one for each of its parts. Shares follow from the recipe and the eval folder alone, so every shard works out the
same ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nvembed.core.errors import UserError
from nvembed.evaluation.instructions import Instruction
from nvembed.evaluation.own_sets import set_digest
from nvembed.evaluation.sets import EvalSet

if TYPE_CHECKING:
    from nvembed.evaluation.scoring import Scored
    from nvembed.evaluation.selection import Chosen, Part
    from nvembed.recipe import Evaluation

ROLE = "test"
"""The part that a benchmark plays in the results, whatever its own split is called."""


@dataclass(frozen=True)
class Piece:
    """What is scored and kept in one go.

    `made_of` is all that decides its score beside the model, as JSON; `score` takes a model in mteb's sense. `label`
    tells the pieces of a task apart, "" if there is one.
    """

    label: str
    made_of: Mapping[str, Any]
    score: Callable[[Any], Scored]
    told: Instruction | None = None
    own_instructions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """A task to be measured, and what names it in the results.

    `group` says where it comes from ("data", "own", "air-bench", "mteb"), `cost` how long it takes up to a factor,
    `known_as` what names and datasets a training source may call it by.
    """

    split: str
    name: str
    type: str
    main_score: str
    instruction: str
    group: str
    pieces: tuple[Piece, ...]
    cost: int
    hf_split: str = ""
    subsets: tuple[str, ...] = ()
    known_as: frozenset[str] = frozenset()

    @property
    def key(self) -> tuple[str, str]:
        """(split, name): no two planned tasks have the same."""
        return self.split, self.name


def plan_tasks(evaluation: Evaluation, sets: Sequence[EvalSet], *, searches_only: bool = False) -> list[Planned]:
    """All tasks of an evaluation, in the order of its results.

    Args:
        evaluation: the section.
        sets: what the data holds out.
        searches_only: only the tasks that a model which cannot embed (BM25) can do.

    Raises:
        UserError: names that mteb does not know, own sets that cannot be used, two tasks of one name.
    """
    from nvembed.evaluation.airbench import plan_air_bench
    from nvembed.evaluation.own_sets import read_own
    from nvembed.evaluation.selection import choose_tasks

    seed = evaluation.seed
    planned = [_local(one, seed, "data") for one in sets]
    planned += [_local(one, seed, "own") for one in read_own(evaluation.own)]
    planned += plan_air_bench(evaluation.air_bench)
    planned += [_benchmark(chosen) for chosen in choose_tasks(evaluation)]
    seen: set[tuple[str, str]] = set()
    for task in planned:
        if task.key in seen:
            raise UserError(f"evaluation: two tasks of the split {task.split} are called {task.name}; rename one")
        seen.add(task.key)
    return [task for task in planned if not searches_only or task.type == "Retrieval"]


def shared_out(planned: Sequence[Planned], shares: int) -> list[list[Planned]]:
    """The tasks of each share, in their order: the dearest first, each to the share that has least to do."""
    loads, place = [0] * shares, {}
    for task in sorted(planned, key=lambda task: (-task.cost, task.key)):
        least = min(range(shares), key=lambda number: (loads[number], number))
        loads[least] += task.cost
        place[task.key] = least
    return [[task for task in planned if place[task.key] == number] for number in range(shares)]


def plan_items(evaluation: Evaluation) -> list[str]:
    """What the pipeline's loop goes over: a candidate and its share, `stage2 1/3`; `stage2` if it has but one."""
    shares = evaluation.shards
    told = [f" {number}/{shares}" for number in range(1, shares + 1)] if shares > 1 else [""]
    return [candidate + share for candidate in evaluation.candidates for share in told]


def read_item(item: str) -> tuple[str, int, int]:
    """Candidate, number of the share (from 1) and how many there are. Raises UserError for another text."""
    found = re.fullmatch(r"(\S+)(?: (\d+)/(\d+))?", item)
    if found is None:
        raise UserError(
            f"{item!r} is no candidate; give one, with its share behind it if there are several: stage2 1/3"
        )
    number, shares = int(found[2] or 1), int(found[3] or 1)
    if not 1 <= number <= shares:
        raise UserError(f"{item!r}: there is no share {number} of {shares}; the first is 1")
    return found[1], number, shares


def task_name(item: str) -> str:
    """What the pipeline's task for an item calls itself: `evaluate_stage2`, `evaluate_stage2_1of3`."""
    return "evaluate_" + item.replace(" ", "_").replace("/", "of")


def _local(source: EvalSet, seed: int, group: str) -> Planned:
    from nvembed.evaluation.scoring import score_set

    own = {text: source.instructions[i] for i, text in source.queries.items() if i in source.instructions}
    piece = Piece(
        label="",
        made_of={"set": set_digest(source), "seed": seed},
        score=lambda model: score_set(source, model, seed),
        own_instructions=own,
    )
    texts = [*source.corpus.values(), *source.queries.values(), *source.train[0], *source.test[0]]
    return Planned(
        split=source.split,
        name=source.name,
        type=source.type,
        main_score=source.main_score,
        instruction=source.instruction,
        group=group,
        pieces=(piece,),
        cost=sum(map(len, texts)),
        subsets=("default",),
    )


def _benchmark(chosen: Chosen) -> Planned:
    about = chosen.about
    first = chosen.parts[0].make()
    from nvembed.evaluation.instructions import instruction_for

    told = instruction_for(first)
    splits = list(dict.fromkeys(part.hf_split for part in chosen.parts))
    same = [about.name, about.dataset["path"], *(about.adapted_from or [])]
    same += [one for part in chosen.parts for one in (part.name, part.make().metadata.dataset["path"])]
    return Planned(
        split=ROLE,
        name=chosen.name,
        type=about.type,
        main_score=about.main_score,
        instruction=told.query,
        group="mteb",
        pieces=tuple(_piece(part, told) for part in chosen.parts),
        cost=chosen.cost,
        hf_split="+".join(splits),
        subsets=tuple(dict.fromkeys(part.label or subset for part in chosen.parts for subset in part.subsets)),
        known_as=frozenset(same),
    )


def _piece(part: Part, told: Instruction) -> Piece:
    import mteb

    def score(model: Any) -> Scored:
        from nvembed.evaluation.scoring import score_task

        return score_task(part.make(), model, split=part.hf_split)

    about = part.make().metadata
    made_of = {
        "task": part.name,
        "split": part.hf_split,
        "subsets": list(part.subsets),
        "data": {name: str(about.dataset.get(name)) for name in ("path", "revision")},
        "told": list(told),
        "mteb": mteb.__version__,
    }
    return Piece(part.label, made_of, score, told)
