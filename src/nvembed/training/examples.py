"""Which examples of a dataset a stage trains on: those of its task types, from the sources that are for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nvembed.core.errors import UserError
from nvembed.data.stages import NUMBERS, rows_of, unseen_sources

if TYPE_CHECKING:
    from nvembed.data import ExampleTable
    from nvembed.recipe import Stage


@dataclass(frozen=True)
class StageRows:
    """A stage's examples.

    Attributes:
        rows: their numbers in the table, (n,) int32, rising.
        unseen: the sources of the mix that are not for the stage, whatever their task types.
        left_out: how many examples of its task types come from those.
        left_out_sources: which of them such examples come from.
    """

    rows: np.ndarray
    unseen: list[str]
    left_out: int
    left_out_sources: list[str]


def stage_rows(name: str, stage: Stage, dataset: Path, table: ExampleTable) -> StageRows:
    """What a stage (`stage1`, `stage2`) trains on. Raises UserError if that is nothing."""
    types, sources, unseen = table.codes("task_type"), table.codes("source"), unseen_sources(dataset, name)
    every = rows_of(types, sources, stage.task_types)
    rows = rows_of(types, sources, stage.task_types, unseen)
    left = np.setdiff1d(every, rows, assume_unique=True)
    named = sorted(sources[1][code] for code in np.unique(sources[0][left]))
    if not len(rows):
        what = f"{dataset}: {name} is left without examples: the folder holds "
        if not len(left):
            raise UserError(f"{what}0 training examples of {', '.join(stage.task_types)}; change {name}.task_types")
        number = NUMBERS[name]
        raise UserError(
            f"{what}{len(left)} training examples of {', '.join(stage.task_types)}, all of sources that are not for "
            f"stage {number} ({_some(named)}); add {number} to data.sources.{named[0]}.stages"
        )
    return StageRows(rows, unseen, len(left), named)


def told(name: str, found: StageRows) -> str:
    """What is left out because of the sources' stages, in one line; empty if nothing is."""
    if not found.left_out:
        return ""
    left_out = _some(found.left_out_sources)
    return f"{name} leaves out {found.left_out:,} examples, whose sources are not for it: {left_out}"


def _some(names: list[str], shown: int = 6) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
