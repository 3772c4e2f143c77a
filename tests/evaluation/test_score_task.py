"""Every text task type of mteb's: the items give mteb's own score, and mean what they say they mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mteb.mocks import ALL_MOCK_TASK_TEST_GRID

from nvembed.evaluation.items import Items
from nvembed.evaluation.scoring import Scored, score_task
from nvembed.evaluation.statistic import statistic_of, unscored
from nvembed.evaluation.stats import observed
from nvembed.evaluation.wrapper import MTEBEncoder

Encode = Callable[..., np.ndarray]
TEXT_TASKS = [task for task in ALL_MOCK_TASK_TEST_GRID if task.metadata.modalities == ["text"]]
NAMES = {task.metadata.name: task for task in TEXT_TASKS}


def why_not(task: Any) -> str | None:
    return unscored(task.metadata.type, task.metadata.main_score)


@pytest.fixture(scope="module")
def scored(encode_words: Encode) -> Callable[[str], Scored]:
    kept: dict[str, Scored] = {}

    def run(name: str) -> Scored:
        if name not in kept:
            task = NAMES[name]
            kept[name] = score_task(task, MTEBEncoder(encode_words, name="words"), split=task.eval_splits[0], seed=42)
        return kept[name]

    return run


@pytest.mark.parametrize("name", [name for name, task in NAMES.items() if why_not(task) is None])
def test_the_items_of_every_type_give_mtebs_own_score(name: str, scored: Callable[[str], Scored]) -> None:
    ours, task = scored(name), NAMES[name]
    assert ours.source.main_score == task.metadata.main_score
    assert ours.score == pytest.approx(np.mean(list(ours.subsets.values())), abs=1e-4)
    again = Items.of(ours.items)
    assert observed(statistic_of(ours.source.type, again, ours.source.main_score)) == ours.score
    assert len({(row["subset"], row["group"], row["item"]) for row in ours.items}) == len(ours.items) > 0
