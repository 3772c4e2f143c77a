"""A verdict counts against the champion it was reached against, and every decision is on record."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from registry_race import bring_one, enter_challengers, judge, tell, version_of
from registry_support import GATE

from nvembed import registry
from nvembed.core.artifacts import read_manifest, write_manifest
from nvembed.core.errors import UserError
from nvembed.registry.locks import Held
from nvembed.registry.promotion import promote
from nvembed.registry.records import read_records
from nvembed.tracking.client import client


@pytest.fixture
def field(store: str, tmp_path: Path) -> Path:
    """Three challengers, the first with a gain of 0.1, the second 0.2, the third 0.15; the first is champion."""
    enter_challengers(tmp_path / "field", [0.1, 0.2, 0.15])
    assert bring_one(tmp_path / "field", 1, judge(tmp_path / "field", 1)).promoted
    return tmp_path / "field"


def _told(number: int) -> list[tuple[str, str]]:
    return [(one.what, one.against) for one in read_records(version_of(number))]


def test_of_two_challengers_of_one_champion_the_second_is_judged_again_and_refused(
    field: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "run-9")
    slower = judge(field, 3, against=1)
    assert bring_one(field, 2, judge(field, 2, against=1)).promoted
    decision = bring_one(field, 3, slower)
    assert not decision.promoted and "not above the required gain" in decision.reason
    assert [_told(number) for number in (1, 2, 3)] == [
        [("promoted", "untrained")],
        [("promoted", "1")],
        [("refused", "2"), ("refused", "2")],
    ]
    stale, beaten = read_records(version_of(3))
    assert "not compared with version 2, which is champion now" in stale.why and not stale.evaluation
    assert beaten.evaluation == read_manifest(field / "2" / "own").content
    assert read_records(version_of(2))[0].evaluation == read_manifest(field / "1" / "own").content
    assert all(one.who and one.when and one.run == "run-9" for one in (stale, beaten))


def test_what_bars_a_challenger_whoever_the_rival_is_bars_it_from_a_second_comparison_too(field: Path) -> None:
    judged = judge(field, 2)
    head = read_manifest(judged)
    content = json.loads((judged / "comparison.json").read_text(encoding="utf-8"))
    found = {"kind": "contamination", "name": "", "passed": False, "says": "Test texts stand in its training data."}
    content["verdict"] |= {"passed": False, "conditions": [found]}
    (judged / "comparison.json").write_text(json.dumps(content), encoding="utf-8")
    write_manifest(judged, kind="comparison", section=head.section, inputs=head.inputs)
    decision = bring_one(field, 2, judged)
    assert not decision.promoted and decision.reason == "Test texts stand in its training data."
    assert [(one.what, one.against) for one in read_records(version_of(2))] == [("refused", "1"), ("refused", "1")]


def test_without_a_champion_any_more_the_untrained_backbone_is_the_one_to_beat(field: Path) -> None:
    judged = judge(field, 2, against=1)
    client().delete_registered_model_alias(GATE.name, "champion")
    assert bring_one(field, 2, judged).promoted
    assert _told(2) == [("refused", "untrained"), ("promoted", "untrained")]


def test_a_champion_that_was_measured_on_other_sets_is_not_deposed(field: Path) -> None:
    (tag,) = (name for name in version_of(1).tags if name.startswith("nvembed.evaluation."))
    client().delete_model_version_tag(GATE.name, "1", tag)
    decision = bring_one(field, 2, judge(field, 2))
    assert not decision.promoted and "version 1, was not measured on these eval sets" in decision.reason
    assert _told(2) == [("refused", "1"), ("refused", "1")]


def test_a_retried_run_records_its_refusals_once(field: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = judge(field, 3, against=1)
    promote(GATE.name, 2, "as it is")
    for run, times in (("run-1", 1), ("run-1", 1), ("run-2", 2)):
        monkeypatch.setenv("KFP_RUN_ID", run)
        assert not bring_one(field, 3, judged).promoted
        assert _told(3) == [("refused", "2"), ("refused", "2")] * times


def test_whoever_lost_the_lock_meanwhile_changes_nothing(field: Path) -> None:
    @contextlib.contextmanager
    def lost(name: str) -> Iterator[Held]:
        def check() -> None:
            raise RuntimeError("the lock was lost")

        yield check

    with pytest.raises(RuntimeError, match="lock was lost"):
        bring_one(field, 2, judge(field, 2, against=1), lost)
    with pytest.raises(RuntimeError, match="lock was lost"):
        promote(GATE.name, 2, lock=lost)
    champion, records = tell(GATE.name)
    assert champion is not None and champion.version == "1" and not records["2"]


@pytest.mark.parametrize("changed", ["own/results.json", "against-1/comparison.json"])
def test_a_folder_that_was_changed_after_it_was_made_is_refused(field: Path, changed: str) -> None:
    judged = judge(field, 2, against=1)
    file = field / "2" / changed
    file.write_text(file.read_text(encoding="utf-8").replace("0.", "1."), encoding="utf-8")
    with pytest.raises(UserError, match="files changed since"):
        bring_one(field, 2, judged)
    present = registry.champion(GATE.name)
    assert present is not None and present.version.version == "1" and not read_records(version_of(2))
