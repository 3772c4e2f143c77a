"""Fifty challengers of known order, four processes, random delays: the best is champion, all is on record."""

from __future__ import annotations

from pathlib import Path

import pytest
from registry_race import check_history, enter_challengers, no_lock, race

from nvembed.registry.locks import file_lock

GAINS = [0.01 + 0.004 * number for number in range(50)]  # each is better than the one before


@pytest.mark.slow
def test_the_last_champion_is_the_best_and_each_refusal_is_recorded(store: str, tmp_path: Path) -> None:
    enter_challengers(tmp_path / "race", GAINS)
    race(tmp_path / "race", len(GAINS), 4, file_lock, longest=0.3, seed=7)
    counts = check_history(best=str(len(GAINS)))
    assert counts["refused"] >= len(GAINS) - 1, "all but the first champion came with a verdict that no longer held"


@pytest.mark.slow
def test_with_the_lock_taken_out_the_same_race_goes_wrong(store: str, tmp_path: Path) -> None:
    enter_challengers(tmp_path / "race", GAINS)
    race(tmp_path / "race", len(GAINS), 4, no_lock, longest=0.3, seed=7)
    with pytest.raises(AssertionError, match=r"crowned over one champion|is champion"):
        check_history(best=str(len(GAINS)))
