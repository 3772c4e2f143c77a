"""Candidates side by side: the verdict follows planted gains and planted nothing, and the pages say what was found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nvembed.core.artifacts import read_manifest
from nvembed.core.errors import UserError
from nvembed.evaluation import compare
from nvembed.evaluation.results import write_results
from nvembed.evaluation.scoring import Scored
from nvembed.evaluation.sets import EvalSet
from nvembed.evaluation.statistic import statistic_of
from nvembed.evaluation.stats import observed
from nvembed.recipe import Evaluation, Registration

SECTION = Evaluation(bootstrap_samples=400)
GATE = Registration()
QUERIES, DOCUMENTS, CLASSES = 300, 200, 6
Make = Callable[..., Path]


def source(task: str, kind: str, metric: str) -> EvalSet:
    return EvalSet("test", task, kind, "Do it", "", metric)


def retrieval(gain: float, noise_seed: int) -> Scored:
    """Queries of a common difficulty; a model's own luck and its planted gain on top."""
    shared = np.random.default_rng(0).beta(0.8, 0.8, QUERIES)
    own = np.random.default_rng(noise_seed).normal(gain, 0.08, QUERIES)
    scores = np.clip(shared + own, 0, 1)
    items: list[dict[str, Any]] = [
        {
            "item": f"q{row}",
            "score": float(score),
            "rank": max(1, round((1 - score) * 20)),
            "top": ["d1"],
            "text": f"query {row} with `<b>marks</b>` | and pipes",
            "relevant_text": f"passage {row}",
            "top_text": "another passage",
        }
        for row, score in enumerate(scores)
    ]
    return scored(source("retrieval", "Retrieval", "ndcg_at_10"), items)


def classification(gain: float, noise_seed: int) -> Scored:
    shared = np.random.default_rng(1).beta(2, 1, DOCUMENTS)
    scores = np.clip(shared + np.random.default_rng(noise_seed).normal(gain, 0.05, DOCUMENTS), 0, 1)
    items = [
        {"item": str(row), "score": float(score), "target": 0, "predictions": [0]} for row, score in enumerate(scores)
    ]
    return scored(source("classification", "Classification", "accuracy"), items)


def clustering(gain: float, noise_seed: int) -> Scored:
    labels = np.random.default_rng(2).integers(0, CLASSES, DOCUMENTS)
    shared, own = np.random.default_rng(3), np.random.default_rng(noise_seed)
    lost = (shared.random(DOCUMENTS) < 0.3 - gain) | (own.random(DOCUMENTS) < 0.01)
    clusters = np.where(lost, shared.integers(0, CLASSES, DOCUMENTS), labels)
    items = [
        {"item": str(row), "score": None, "target": int(labels[row]), "predictions": [int(clusters[row])], "draws": [1]}
        for row in range(DOCUMENTS)
    ]
    return scored(source("clustering", "Clustering", "v_measure"), items)


def scored(of: EvalSet, items: list[dict[str, Any]]) -> Scored:
    score = observed(statistic_of(of.type, items))
    return Scored(of, score, {of.main_score: score}, items)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes an evaluation folder with the given gains over what `base` gets."""

    def build(
        candidate: str,
        gain: float = 0.0,
        *,
        other: float = 0.0,
        seed: int = 0,
        eval_sets: str = "e" * 64,
        **kwargs: Any,
    ) -> Path:
        rng = seed or 10 + len(candidate) + ord(candidate[-1])
        tasks = [retrieval(gain, rng)]
        if candidate != "bm25":
            tasks += [classification(other, rng + 1), clustering(other, rng + 2)]
        out = tmp_path / kwargs.get("name", candidate)
        write_results(
            out,
            candidate,
            kwargs.get("section", SECTION),
            variants={"trained": tasks},
            eval_sets=eval_sets,
            inputs={},
            licenses={},
            speed={"seconds": 1.5, "texts": 900, "texts_per_second": 600.0},
        )
        return out

    return build


def test_a_planted_gain_on_the_gate_task_passes(make: Make, tmp_path: Path) -> None:
    content = compare(SECTION, GATE, [make("base"), make("stage2", 0.06, other=0.06)], tmp_path / "out")
    assert content["verdict"]["passed"] and content["verdict"]["beats"] == "base"
    assert len(content["verdict"]["reasons"]) == 3
    assert "its lower end is above the required gain of 0.000" in content["verdict"]["reasons"][0]
    gain = next(d for d in content["differences"] if d["task"] == "retrieval" and d["a"] == "stage2")
    assert 0 < gain["low"] < gain["mean"] < gain["high"]
    assert json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8")) == content


def test_nothing_planted_passes_no_more_often_than_the_interval_allows() -> None:
    from nvembed.evaluation.measures import Mean
    from nvembed.evaluation.stats import paired_difference

    rng = np.random.default_rng(5)
    passed = 0
    for trial in range(300):
        base = rng.beta(0.8, 0.8, 100)
        new = base + rng.normal(0, 0.2, 100)
        passed += paired_difference(Mean(new), Mean(base), samples=200, confidence=0.95, seed=trial).low > 0
    # one-sided share 2.5 %; 300 trials of a fair gate stay under 17 passes in 999 cases of 1,000
    assert passed < 17


def test_an_equal_model_does_not_pass(make: Make, tmp_path: Path) -> None:
    base = make("base", seed=40)
    content = compare(SECTION, GATE, [base, make("stage2", seed=40)], tmp_path / "out")
    assert not content["verdict"]["passed"]
    assert "its lower end is not above the required gain" in content["verdict"]["reasons"][0]
    assert all(d["mean"] == d["low"] == d["high"] == 0 for d in content["differences"])


def test_the_report_says_when_the_test_set_is_too_small_to_decide(make: Make, tmp_path: Path) -> None:
    base = make("base")
    unsure = compare(SECTION, GATE, [base, make("stage2")], tmp_path / "unsure")
    gap = next(d for d in unsure["differences"] if d["task"] == "retrieval" and d["a"] == "stage2")
    assert gap["low"] < 0 < gap["high"]
    said = "The test set is too small to decide"
    assert said in (tmp_path / "unsure" / "report.md").read_text(encoding="utf-8")
    for name, gain in (("won", 0.1), ("lost", -0.1)):
        compare(SECTION, GATE, [base, make("stage2", gain, name=name)], tmp_path / f"{name}-out")
        assert said not in (tmp_path / f"{name}-out" / "report.md").read_text(encoding="utf-8")


def test_a_loss_on_a_guard_task_fails_whatever_the_gate_task_gained(make: Make, tmp_path: Path) -> None:
    content = compare(SECTION, GATE, [make("base"), make("stage2", 0.1, other=-0.1)], tmp_path / "out")
    assert not content["verdict"]["passed"]
    reasons = content["verdict"]["reasons"]
    assert "is above the required gain" in reasons[0]
    assert "classification" in reasons[1].lower() and "not above the allowed loss of −0.020" in reasons[1]
    assert content["verdict"]["failed"] == ["classification", "clustering"]
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "but may lose too much on classification and clustering" in report


def test_the_required_gain_is_the_recipes(make: Make, tmp_path: Path) -> None:
    folders = [make("base"), make("stage2", 0.06, other=0.06)]
    strict = compare(SECTION, Registration(min_gain=0.06), folders, tmp_path / "out")
    assert not strict["verdict"]["passed"]


def test_with_a_champion_the_champion_is_the_one_to_beat(make: Make, tmp_path: Path) -> None:
    folders = [make("base"), make("stage2", 0.05)]
    champion = make("stage2", 0.12, name="champion", seed=77)
    content = compare(SECTION, GATE, folders, tmp_path / "out", champion=champion)
    assert content["verdict"]["beats"] == content["baseline"]["candidate"] == "champion"
    assert not content["verdict"]["passed"]
    assert content["baseline"]["score"] == content["scores"]["champion"]["test"]["retrieval"]["score"]


def test_all_pairs_worth_knowing_are_there_and_bm25_only_searches(make: Make, tmp_path: Path) -> None:
    folders = [make("stage2", 0.05), make("bm25", -0.1), make("stage1", 0.04), make("base")]
    content = compare(SECTION, GATE, folders, tmp_path / "out")
    assert list(content["scores"]) == ["bm25", "base", "stage1", "stage2"]
    pairs = {(d["task"], d["a"], d["b"]) for d in content["differences"]}
    for task in ("retrieval", "classification", "clustering"):
        assert {(task, "stage2", "base"), (task, "stage1", "base"), (task, "stage2", "stage1")} <= pairs
    assert {pair for pair in pairs if "bm25" in pair} == {
        ("retrieval", a, "bm25") for a in ("stage1", "stage2", "base")
    }
    for difference in content["differences"]:
        scores = {
            n: m["test"][difference["task"]]["score"]
            for n, m in content["scores"].items()
            if difference["task"] in m["test"]
        }
        assert difference["mean"] == pytest.approx(scores[difference["a"]] - scores[difference["b"]])


def test_the_pages_stand_by_themselves(make: Make, tmp_path: Path) -> None:
    folders = [make("stage2", 0.05), make("bm25", -0.1), make("stage1", 0.04), make("base")]
    compare(SECTION, GATE, folders, tmp_path / "out")
    out = tmp_path / "out"
    table = (out / "table.md").read_text(encoding="utf-8")
    assert [line.split(" | ")[0] for line in table.splitlines()][2:] == [
        "| BM25", "| Untrained backbone", "| Stage 1", "| Stage 2",
    ]  # fmt: skip
    assert table.splitlines()[0].startswith("| model | retrieval nDCG@10 | gain | classification accuracy | gain |")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert 'src="data:image/png;base64,' in page and "http" not in page.replace("http-equiv", "")
    assert "&lt;b&gt;marks&lt;/b&gt;" in page and "<b>marks" not in page
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "### Won" in report and "### Lost" in report and "<b>" not in report.replace("\\<b\\>", "")
    assert (out / "scores.png").stat().st_size > 10_000
    assert read_manifest(out, kind="comparison", verify=True).headline["gain.stage2.test.retrieval"] > 0


def test_queries_won_are_those_whose_passage_rose(make: Make, tmp_path: Path) -> None:
    compare(SECTION, GATE, [make("stage2", 0.05), make("base")], tmp_path / "out")
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    won = report.split("### Won")[1].split("### Lost")[0].strip().splitlines()[2:]
    ranks = [[int(part) for part in line.split("|")[1].split("→")] for line in won]
    assert len(ranks) == 5 and all(before > after for before, after in ranks)


def test_the_same_folders_give_the_same_comparison(make: Make, tmp_path: Path) -> None:
    folders = [make("base"), make("stage1", 0.02), make("stage2", 0.05)]
    compare(SECTION, GATE, folders, tmp_path / "one")
    compare(SECTION, GATE, folders[::-1], tmp_path / "two")
    for name in ("comparison.json", "table.md", "scores.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_without_a_trained_stage_nothing_is_judged(make: Make, tmp_path: Path) -> None:
    content = compare(SECTION, GATE, [make("base"), make("bm25")], tmp_path / "out")
    assert content["challenger"] is None and not content["verdict"]["passed"]
    assert content["verdict"]["reasons"] == ["There is nothing to judge: a trained stage was not evaluated."]


@pytest.mark.parametrize("change", [{"eval_sets": "f" * 64}, {"section": Evaluation(seed=18)}])
def test_folders_of_other_eval_sets_or_seeds_are_refused(make: Make, tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="other eval sets or with another seed"):
        compare(SECTION, GATE, [make("base"), make("stage2", **change)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_champion_measured_on_other_eval_sets_is_refused(make: Make, tmp_path: Path) -> None:
    champion = make("stage2", eval_sets="f" * 64, name="champion")
    with pytest.raises(UserError, match="other eval sets"):
        compare(SECTION, GATE, [make("base"), make("stage2")], tmp_path / "out", champion=champion)


def test_a_candidate_given_twice_an_unknown_gate_task_and_nothing_are_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="base was given already"):
        compare(SECTION, GATE, [make("base"), make("base", name="again")], tmp_path / "out")
    with pytest.raises(UserError, match=r"gate_task is 'reranking'.*classification, clustering, retrieval"):
        compare(SECTION, Registration(gate_task="reranking"), [make("base")], tmp_path / "out")
    with pytest.raises(UserError, match="nothing to compare"):
        compare(SECTION, GATE, [], tmp_path / "out")
