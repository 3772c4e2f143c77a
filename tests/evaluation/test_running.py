"""Candidates end to end, with a real small backbone of random weights."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from nvembed.core.artifacts import read_manifest, write_manifest
from nvembed.core.errors import UserError
from nvembed.evaluation import evaluate
from nvembed.evaluation.results import read_results
from nvembed.modeling import NVEmbedModel
from nvembed.recipe import Evaluation, LatentBlock, LoRA, Model, Resources

MODEL = Model(
    backbone="random:mistral-tiny",
    latent=LatentBlock(num_latents=8, num_heads=2, head_dim=16, init="identity"),
    lora=LoRA(rank=2),
    max_length=64,
    precision="float32",
)
SECTION = Evaluation(splits=["test"])
KEYS = [("test", "classification"), ("test", "clustering"), ("test", "retrieval")]


def run(candidate: str, eval_folder: Path, out: Path, adapter: Path | None = None) -> Path:
    evaluate(candidate, SECTION, MODEL, Resources(device="cpu"), eval_folder, adapter, out)
    return out


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    NVEmbedModel.from_section(MODEL, trainable=True).save_trainable(folder)
    write_manifest(folder, kind="adapter", section={})
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, eval_folder: Path) -> Path:
    return run("base", eval_folder, tmp_path_factory.mktemp("base") / "out")


def test_the_backbone_is_measured_by_its_card_and_by_our_rule_and_each_task_keeps_the_better(base: Path) -> None:
    tasks = read_results(base).tasks
    assert sorted(tasks) == KEYS
    for row in tasks.values():
        assert set(row["variants"]) == {"card", "template"}
        assert row["score"] == max(variant["score"] for variant in row["variants"].values())
        assert row["scores"] == row["variants"][row["variant"]]["scores"]
    assert any(row["variants"]["card"]["score"] != row["variants"]["template"]["score"] for row in tasks.values())


def test_the_folder_names_its_eval_sets_its_headline_and_every_item(base: Path, eval_folder: Path) -> None:
    manifest, results = read_manifest(base, kind="evaluation", verify=True), read_results(base)
    assert manifest.inputs["eval_sets"] == read_manifest(eval_folder).content == results.eval_sets
    assert manifest.extra["candidate"] == results.candidate == "base"
    assert manifest.headline["eval.base.test.retrieval"] == results.tasks["test", "retrieval"]["score"]
    assert manifest.licenses == {"made up": "CC0-1.0"}
    assert manifest.extra["speed"]["texts"] > 100
    assert {key: len(items) for key, items in results.items.items()} == dict(zip(KEYS, (48, 48, 40), strict=True))
    assert pq.read_schema(base / "items.parquet").names[:4] == ["split", "task", "item", "score"]


def test_the_same_candidate_gives_the_same_files(base: Path, eval_folder: Path, tmp_path: Path) -> None:
    again = run("base", eval_folder, tmp_path / "again")
    assert read_manifest(again).content == read_manifest(base).content


def test_an_identity_block_that_learnt_nothing_scores_as_the_backbone_under_our_rule(
    base: Path, eval_folder: Path, adapter: Path, tmp_path: Path
) -> None:
    trained = read_results(run("stage1", eval_folder, tmp_path / "out", adapter)).tasks
    for key, row in read_results(base).tasks.items():
        assert trained[key]["score"] == pytest.approx(row["variants"]["template"]["score"], abs=0.01)


def test_bm25_is_measured_on_retrieval_alone(eval_folder: Path, tmp_path: Path) -> None:
    results = read_results(run("bm25", eval_folder, tmp_path / "out"))
    assert list(results.tasks) == [("test", "retrieval")]
    assert results.tasks["test", "retrieval"]["score"] > 0.2


def test_an_unknown_candidate_or_a_stage_without_its_adapter_is_refused(eval_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown candidate 'stage3'"):
        run("stage3", eval_folder, tmp_path / "out")
    with pytest.raises(UserError, match="stage2 cannot be evaluated without its adapter"):
        run("stage2", eval_folder, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_folder_changed_after_evaluation_is_refused(eval_folder: Path, tmp_path: Path) -> None:
    out = run("bm25", eval_folder, tmp_path / "out")
    file = out / "results.json"
    file.write_text(file.read_text(encoding="utf-8").replace("bm25", "stage2"), encoding="utf-8")
    with pytest.raises(UserError, match="its files changed"):
        read_results(out)
