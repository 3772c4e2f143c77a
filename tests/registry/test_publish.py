"""Registering and promoting: one version a model, one champion, and a reason for everything."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from registry_support import (
    EVALUATION,
    GATE,
    MODEL,
    RECIPE,
    Contest,
    environment_without_import_paths,
    eval_sets_folder,
    retrieval_set,
)

from nvembed import registry
from nvembed.core.artifacts import read_manifest
from nvembed.core.errors import UserError
from nvembed.recipe import section_json
from nvembed.registry.champions import evaluation_key
from nvembed.registry.promotion import ROLLED_BACK, promote, rollback
from nvembed.registry.records import read_records
from nvembed.tracking.client import client

Adapters = Callable[[int], Path]
Hold = Callable[..., Contest]


def _publish(adapter: Path, contest: Contest) -> dict[str, object]:
    outcome = registry.publish(GATE, MODEL, adapter, contest.folder, contest.results, {}, run_id="run-7")
    json.dumps(outcome)  # the pipeline hands it on as JSON
    return outcome


def _champions_evaluation() -> Path:
    present = registry.champion(GATE.name)
    assert present is not None
    (key,) = present.evaluations
    folder = present.evaluation_folder(key)
    assert folder is not None
    return folder


def test_a_model_that_beats_the_backbone_becomes_the_first_champion(
    store: str, adapters: Adapters, contest: Hold
) -> None:
    outcome = _publish(adapters(1), contest(adapters(1), gain=0.1))
    assert outcome["version"] == "1" and outcome["aliases"] == ["challenger", "champion"]
    assert outcome["promoted"] and "lower end is above" in str(outcome["reason"])
    tags = registry.list_versions(GATE.name)[0].tags
    assert tags["nvembed.champion_by"] and tags["nvembed.champion_since"] and tags["nvembed.champion_why"]
    assert len(tags["nvembed.code"]) == 64
    assert tags["nvembed.licenses"] == "PSF-2.0"


def test_a_model_that_does_not_beat_the_backbone_stays_challenger(
    store: str, adapters: Adapters, contest: Hold
) -> None:
    outcome = _publish(adapters(1), contest(adapters(1), gain=-0.1))
    assert outcome["aliases"] == ["challenger"] and not outcome["promoted"]
    assert registry.champion(GATE.name) is None


_AGAIN = """
import sys
from pathlib import Path
from nvembed import registry
from nvembed.recipe import Model, Registration, section_from_json

gate, model = section_from_json(Registration, sys.argv[1]), section_from_json(Model, sys.argv[2])
adapter, comparison, *results = map(Path, sys.argv[3:])
outcome = registry.publish(gate, model, adapter, comparison, results, {})
assert outcome["version"] == "1" and outcome["reason"] == "It is the champion already.", outcome
assert "torch" not in sys.modules, "the version was there already: nothing was to be built"
"""


def test_the_same_model_again_is_the_same_version_and_nothing_is_built(
    store: str, adapters: Adapters, contest: Hold, tmp_path: Path
) -> None:
    judged = contest(adapters(1), gain=0.1)
    first = _publish(adapters(1), judged)
    folders = [adapters(1), judged.folder, *judged.results]
    command = [sys.executable, "-c", _AGAIN, section_json(GATE), section_json(MODEL), *map(str, folders)]
    subprocess.run(command, check=True, timeout=60, env=environment_without_import_paths())
    assert [version.version for version in registry.list_versions()] == ["1"] == [first["version"]]


def test_mlflow_serves_the_offline_vectors_with_and_without_an_instruction(
    store: str, adapters: Adapters, contest: Hold
) -> None:
    import mlflow
    import numpy as np
    import pandas as pd

    import nvembed

    outcome = _publish(adapters(1), contest(adapters(1), gain=0.1))
    offline = nvembed.NVEmbedModel.from_section(MODEL, adapters(1))
    served = mlflow.pyfunc.load_model(f"models:/{GATE.name}@champion")
    texts = ["Open a file.", "", "Größe 大きさ"]
    for instruction in ("", "Given a question, retrieve passages"):
        expected = offline.encode(texts, instruction=instruction)
        for given in (texts, pd.Series(texts), pd.DataFrame({"text": texts})):
            got = served.predict(given, params={"instruction": instruction})
            assert got.shape == expected.shape and np.abs(got - expected).max() <= 1e-5
    assert np.abs(served.predict(texts) - offline.encode(texts)).max() <= 1e-5
    short = served.predict(["word " * 80], params={"max_length": 16})
    assert np.abs(short - offline.encode(["word " * 80], max_length=16)).max() <= 1e-5
    from_folder = nvembed.NVEmbedModel.from_pretrained(str(outcome["folder"]))
    assert np.abs(from_folder.encode(texts) - offline.encode(texts)).max() <= 1e-5


def test_the_registered_model_holds_no_pickle_and_brings_its_code(
    store: str, adapters: Adapters, contest: Hold
) -> None:
    outcome = _publish(adapters(1), contest(adapters(1), gain=0.1))
    whole = Path(str(outcome["folder"])).parents[1]
    assert (whole / "MLmodel").is_file() and (whole / "code" / "nvembed" / "__init__.py").is_file()
    assert not [file for file in whole.rglob("*") if file.suffix in (".pkl", ".bin", ".pt", ".pyc")]
    needs = (whole / "requirements.txt").read_text().split()
    assert any(line.startswith("torch==") for line in needs) and not any("+" in line for line in needs)


def test_a_better_challenger_replaces_the_champion_it_was_compared_with(
    store: str, adapters: Adapters, contest: Hold
) -> None:
    _publish(adapters(1), contest(adapters(1), gain=0.1))
    outcome = _publish(adapters(2), contest(adapters(2), gain=0.2, champion=_champions_evaluation()))
    assert outcome["version"] == "2" and outcome["aliases"] == ["challenger", "champion"]
    older = registry.list_versions(GATE.name)[1]
    assert older.aliases == () and older.tags["nvembed.champion_until"]


def test_a_challenger_that_is_not_better_leaves_the_champion(store: str, adapters: Adapters, contest: Hold) -> None:
    _publish(adapters(1), contest(adapters(1), gain=0.2))
    outcome = _publish(adapters(2), contest(adapters(2), gain=0.1, champion=_champions_evaluation()))
    assert outcome["aliases"] == ["challenger"]
    present = registry.champion(GATE.name)
    assert present is not None and present.version.version == "1"


def test_a_verdict_from_before_there_was_a_champion_is_reached_again(
    store: str, adapters: Adapters, contest: Hold
) -> None:
    better = contest(adapters(2), gain=0.3)
    _publish(adapters(1), contest(adapters(1), gain=0.1))
    assert _publish(adapters(2), better)["promoted"]
    newest = registry.champion(GATE.name)
    assert newest is not None and newest.version.version == "2"
    assert [(one.what, one.against) for one in read_records(newest.version)] == [("refused", "1"), ("promoted", "1")]
    listed = {item.path for item in client().list_artifacts(newest.version.run, "comparison")}
    assert "comparison/against-1" in listed, "the second verdict is kept as evidence"


def test_an_adapter_that_was_not_evaluated_is_not_registered(store: str, adapters: Adapters, contest: Hold) -> None:
    with pytest.raises(UserError, match="evaluate it before"):
        _publish(adapters(2), contest(adapters(1), gain=0.1))
    assert registry.list_versions() == []


def test_registering_without_a_server_says_what_to_set(
    store: str, adapters: Adapters, contest: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = contest(adapters(1), gain=0.1)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI is not set"):
        _publish(adapters(1), judged)
    assert registry.champion(GATE.name) is None


def test_promotion_by_hand_and_back_again(store: str, adapters: Adapters, contest: Hold) -> None:
    _publish(adapters(1), contest(adapters(1), gain=0.2))
    _publish(adapters(2), contest(adapters(2), gain=0.1))
    assert promote(GATE.name, 2, "it is smaller").tags["nvembed.champion_why"] == "it is smaller"
    assert "champion" in rollback(GATE.name).aliases
    present = registry.champion(GATE.name)
    assert present is not None and present.version.version == "1"
    with pytest.raises(UserError, match="first champion"):
        rollback(GATE.name)
    with pytest.raises(UserError, match="no version 7; known: 2, 1"):
        promote(GATE.name, 7)


def test_a_model_that_was_rolled_back_is_not_crowned_by_the_next_run_but_by_a_person(
    store: str, adapters: Adapters, contest: Hold
) -> None:
    _publish(adapters(1), contest(adapters(1), gain=0.1))
    judged = contest(adapters(2), gain=0.2, champion=_champions_evaluation())
    assert _publish(adapters(2), judged)["promoted"]
    rollback(GATE.name)
    outcome = _publish(adapters(2), judged)
    assert outcome["aliases"] == ["challenger"] and "rolled back by hand" in str(outcome["reason"])
    again = promote(GATE.name, 2)
    assert "champion" in again.aliases and ROLLED_BACK not in again.tags


def test_the_champions_own_results_come_back_as_they_were_kept(
    store: str, adapters: Adapters, contest: Hold, tmp_path: Path
) -> None:
    judged = contest(adapters(1), gain=0.1)
    _publish(adapters(1), judged)
    kept = _champions_evaluation()
    assert read_manifest(kept, kind="evaluation", verify=True).content == read_manifest(judged.results[1]).content


def test_the_model_at_hand_is_not_compared_with_itself(
    store: str, adapters: Adapters, contest: Hold, tmp_path: Path
) -> None:
    judged = contest(adapters(1), gain=0.1)
    sets = eval_sets_folder(tmp_path / "sets")
    assert registry.champion_results(GATE, EVALUATION, RECIPE.resources, sets, judged.results) is None
    _publish(adapters(1), judged)
    assert registry.champion_results(GATE, EVALUATION, RECIPE.resources, sets, judged.results) is None


def test_a_champion_is_measured_once_on_eval_sets_it_has_not_seen(
    store: str, adapters: Adapters, contest: Hold, tmp_path: Path
) -> None:
    _publish(adapters(1), contest(adapters(1), gain=0.1))
    sets = retrieval_set(tmp_path / "new")
    test_only = EVALUATION.model_copy(update={"splits": ["test"]})
    measured = registry.champion_results(GATE, test_only, RECIPE.resources, sets)
    assert measured is not None
    manifest = read_manifest(measured, kind="evaluation", verify=True)
    present = registry.champion(GATE.name)
    assert present is not None and manifest.inputs["model"] == present.digest
    assert manifest.inputs["eval_sets"] == read_manifest(sets).content
    again = registry.champion_results(GATE, test_only, RECIPE.resources, sets)
    assert again is not None and read_manifest(again, verify=True) == manifest


def test_a_champion_whose_files_are_gone_stops_no_run_and_is_not_replaced(
    store: str, adapters: Adapters, contest: Hold, tmp_path: Path
) -> None:
    _publish(adapters(1), contest(adapters(1), gain=0.1))
    shutil.rmtree(tmp_path / "mlartifacts")
    test_only = EVALUATION.model_copy(update={"splits": ["test"]})
    sets = retrieval_set(tmp_path / "new")
    assert registry.champion_results(GATE, test_only, RECIPE.resources, sets) is None
    outcome = _publish(adapters(2), contest(adapters(2), gain=0.2))
    assert outcome["aliases"] == ["challenger"] and "promote it by hand" in str(outcome["reason"])


def test_evaluations_on_other_sets_splits_or_seeds_have_other_keys() -> None:
    key = evaluation_key(EVALUATION, "a")
    assert key == evaluation_key(EVALUATION.model_copy(update={"bootstrap_samples": 7}), "a")
    others = [EVALUATION.model_copy(update={"seed": 1}), EVALUATION.model_copy(update={"splits": ["test"]})]
    assert len({key, evaluation_key(EVALUATION, "b"), *(evaluation_key(other, "a") for other in others)}) == 4


def test_the_evidence_lies_in_the_run_that_registered(store: str, adapters: Adapters, contest: Hold) -> None:
    _publish(adapters(1), contest(adapters(1), gain=0.1))
    (version,) = registry.list_versions(GATE.name)
    listed = {item.path for item in client().list_artifacts(version.run)}
    assert {"comparison", "evaluations"} <= listed
    (logged,) = client().search_logged_models([client().get_run(version.run).info.experiment_id])
    assert logged.source_run_id == version.run
