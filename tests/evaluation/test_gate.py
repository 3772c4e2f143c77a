"""The gate: each condition lets through what it should and stops what it should, and says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nvembed.core.artifacts import write_manifest
from nvembed.core.errors import UserError
from nvembed.data.example import Example
from nvembed.data.store import write_examples
from nvembed.evaluation import compare
from nvembed.evaluation.contamination import Contamination, find_contamination
from nvembed.evaluation.correction import correct
from nvembed.evaluation.judgements import FILE, count_judgement
from nvembed.evaluation.results import write_results
from nvembed.evaluation.scoring import MTEBSource, Scored
from nvembed.evaluation.serving import measure_serving
from nvembed.evaluation.statistic import statistic_of
from nvembed.evaluation.stats import Draws, observed
from nvembed.evaluation.verdict import sentence
from nvembed.recipe import Evaluation, Registration

SECTION = Evaluation(bootstrap_samples=300)
METRICS = {
    "Retrieval": "ndcg_at_10",
    "STS": "cosine_spearman",
    "PairClassification": "max_ap",
    "Reranking": "map_at_1000",
}
ITEMS = 250
Make = Callable[..., Path]


def task_of(kind: str, name: str, gain: float, seed: int, notes: dict[str, Any]) -> Scored:
    """A task of a type; a gain makes scores higher or similarities truer."""
    shared, own = np.random.default_rng(ITEMS), np.random.default_rng(seed)
    if kind in ("Retrieval", "Reranking"):
        scores = np.clip(shared.beta(0.8, 0.8, ITEMS) + own.normal(gain, 0.05, ITEMS), 0, 1)
        columns: dict[str, Any] = {"score": scores}
    else:
        target = shared.integers(0, 2, ITEMS)
        values = target * (0.6 + 4 * gain) + shared.normal(0, 0.6, ITEMS) + own.normal(0, 0.02, ITEMS)
        columns = {"value": values, ("gold" if kind == "STS" else "target"): target}
    rows = [
        {"item": str(n), **{key: float(c[n]) if key != "target" else int(c[n]) for key, c in columns.items()}}
        for n in range(ITEMS)
    ]
    if kind in ("Retrieval", "Reranking"):
        rows = [{**row, "text": "q", "relevant_text": "p", "top_text": "o", "rank": 1, "top": ["d"]} for row in rows]
    score = observed(statistic_of(kind, rows, METRICS[kind]))
    return Scored(MTEBSource("test", name, kind, METRICS[kind]), score, {METRICS[kind]: score}, rows)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """An evaluation folder; `tasks` are name → (type, gain)."""

    def build(candidate: str, tasks: dict[str, tuple[str, float]], *, name: str = "", **kwargs: Any) -> Path:
        out, seed = tmp_path / (name or candidate), len(candidate)
        scored = [task_of(kind, task, gain, seed + n, {}) for n, (task, (kind, gain)) in enumerate(tasks.items())]
        write_results(
            out,
            candidate,
            SECTION,
            variants={"trained": scored},
            eval_sets="e" * 64,
            inputs=kwargs.pop("inputs", {}),
            licenses={},
            speed=kwargs.pop("speed", {"seconds": 1.0}),
            **kwargs,
        )
        return out

    return build


TASKS = {
    "alpha": ("Retrieval", 0.0),
    "beta": ("Retrieval", 0.0),
    "gamma": ("STS", 0.0),
    "delta": ("PairClassification", 0.0),
}


def better(**gains: float) -> dict[str, tuple[str, float]]:
    return {task: (kind, gains.get(task, gain)) for task, (kind, gain) in TASKS.items()}


def judged(make: Make, tmp_path: Path, gate: Registration, gains: dict[str, float], **kwargs: Any) -> dict[str, Any]:
    asked = {key: kwargs.pop(key) for key in ("contamination", "ledger", "champion") if key in kwargs}
    folders = [make("base", TASKS), make("stage2", better(**gains), **kwargs)]
    content = compare(SECTION, gate, folders, tmp_path / "out", **asked)
    verdict: dict[str, Any] = content["verdict"]
    return verdict | {"content": content}


ALL = dict.fromkeys(TASKS, 0.05)
ONE = Registration(gate_task="alpha")


def test_all_kinds_of_tasks_can_gate_and_guard(make: Make, tmp_path: Path) -> None:
    verdict = judged(make, tmp_path, Registration(gate_task="gamma"), ALL)
    assert verdict["passed"] and not verdict["failed"]
    assert {one["name"] for one in verdict["conditions"] if one["kind"] == "guard"} == {"alpha", "beta", "delta"}
    assert "Gamma (Spearman correlation, test)" in verdict["reasons"][0]


def test_a_mean_over_a_type_gains_where_no_single_task_must(make: Make, tmp_path: Path) -> None:
    gains = {"alpha": 0.06, "beta": -0.01}
    verdict = judged(make, tmp_path, Registration(gate_task="mean:Retrieval"), gains)
    content = verdict["content"]
    assert verdict["passed"], verdict["reasons"]
    assert content["primary"]["tasks"] == ["alpha", "beta"]
    (mean,) = [d for d in content["mean_differences"] if (d["a"], d["b"]) == ("stage2", "base")]
    single = {d["task"]: d for d in content["differences"] if (d["a"], d["b"]) == ("stage2", "base")}
    assert mean["mean"] == pytest.approx((single["alpha"]["mean"] + single["beta"]["mean"]) / 2)
    widths = {task: single[task]["high"] - single[task]["low"] for task in ("alpha", "beta")}
    assert mean["high"] - mean["low"] == pytest.approx(np.hypot(*widths.values()) / 2, rel=0.15)
    base = content["scores"]["base"]["test"]
    assert content["baseline"]["score"] == pytest.approx((base["alpha"]["score"] + base["beta"]["score"]) / 2)
    assert "On average over 2 tasks" in verdict["paragraph"]
    assert not judged(make, tmp_path, Registration(gate_task="mean:Retrieval"), {"alpha": -0.05})["passed"]


def test_only_the_named_guards_guard(make: Make, tmp_path: Path) -> None:
    gains = {"alpha": 0.06, "beta": -0.06}
    strict = judged(make, tmp_path, ONE, gains)
    assert not strict["passed"] and strict["failed"] == ["beta"] and "beta" in strict["paragraph"]
    assert judged(make, tmp_path, Registration(gate_task="alpha", guard_tasks=["gamma"]), gains)["passed"]
    with pytest.raises(UserError, match=r"guard_tasks names 'omega'.*alpha, beta, delta, gamma"):
        judged(make, tmp_path, Registration(gate_task="alpha", guard_tasks=["omega"]), gains)


@pytest.mark.parametrize("gate", ["omega", "mean:Summarization"])
def test_a_gate_that_nothing_was_measured_for_is_refused(make: Make, tmp_path: Path, gate: str) -> None:
    with pytest.raises(UserError, match=r"holds alpha, beta, delta, gamma; .*mean:<type>.*Retrieval, STS"):
        judged(make, tmp_path, Registration(gate_task=gate), ALL)


def test_a_task_that_failed_fails_the_gate_and_spoils_no_other(make: Make, tmp_path: Path) -> None:
    broken = {("test", "epsilon"): "OSError: no room"}
    verdict = judged(make, tmp_path, ONE, ALL, errors=broken)
    assert not verdict["passed"] and not verdict["failed"]
    assert any("epsilon (test) failed for stage 2: OSError: no room" in reason for reason in verdict["reasons"])
    assert sentence(verdict) == "Stage 2 beats the untrained backbone on alpha, but epsilon could not be measured."
    assert {d["task"] for d in verdict["content"]["differences"]} == set(TASKS)
    assert "epsilon could not be measured" in verdict["paragraph"]
    gate_itself = judged(make, tmp_path, Registration(gate_task="epsilon"), ALL, errors=broken)
    assert gate_itself["failed"] == ["epsilon"] and "was not measured for both" in gate_itself["reasons"][0]


def test_a_task_that_the_champion_was_not_measured_on_fails_the_gate(make: Make, tmp_path: Path) -> None:
    champion = make("stage2", {name: one for name, one in TASKS.items() if name != "delta"}, name="champion")
    verdict = judged(make, tmp_path, ONE, ALL, champion=champion)
    assert verdict["failed"] == ["delta"] and verdict["beats"] == "champion"


def test_a_champion_of_another_vector_size_is_compared_item_by_item(make: Make, tmp_path: Path) -> None:
    # nothing in an evaluation depends on the size of vectors: items have scores, and these are compared
    champion = make("stage2", TASKS, name="champion", speed={"serving": {"parameters": 7e9}})
    verdict = judged(make, tmp_path, ONE, ALL, champion=champion, speed={"serving": {"parameters": 2e7}})
    assert verdict["passed"] and verdict["beats"] == "champion"


@pytest.mark.parametrize(
    ("limits", "passes"),
    [({"query_ms": 20}, True), ({"query_ms": 10}, False), ({"documents_per_second": 90}, True),
     ({"documents_per_second": 200}, False), ({"parameters": 3e7}, True), ({"size_mb": 50}, False)],
)  # fmt: skip
def test_limits_of_serving_are_held(make: Make, tmp_path: Path, limits: dict[str, float], passes: bool) -> None:
    served = {
        "query_ms_p50": 9.0,
        "query_ms_p95": 12.5,
        "documents_per_second": 100.0,
        "parameters": 2.2e7,
        "size_mb": 90,
    }
    gate = Registration.model_validate({"gate_task": "alpha", "limits": limits})
    verdict = judged(make, tmp_path, gate, ALL, speed={"serving": served})
    assert verdict["passed"] == passes
    (said,) = [one["says"] for one in verdict["conditions"] if one["kind"] == "limit"]
    assert said in verdict["reasons"] and f"{next(iter(limits.values())):g} asked for" in said
    unmeasured = judged(make, tmp_path, gate, ALL)
    assert not unmeasured["passed"] and any("was not measured" in reason for reason in unmeasured["reasons"])


def test_training_on_test_texts_fails_the_gate(make: Make, tmp_path: Path) -> None:
    clean = judged(make, tmp_path, ONE, ALL, contamination=Contamination(40, 900, 0))
    assert clean["passed"] and "None of the test texts stands in the training data." in clean["paragraph"]
    dirty = judged(make, tmp_path, ONE, ALL, contamination=Contamination(40, 900, 2, "a text of the test set"))
    assert not dirty["passed"] and "2 examples hold one, such as 'a text of the test set'" in dirty["reasons"][-1]
    assert sentence(dirty).endswith("but it was trained on test texts.")


def test_benchmarks_nobody_looked_for_and_tasks_trained_on_are_named(make: Make, tmp_path: Path) -> None:
    notes = {("test", "alpha"): {"in_domain": True, "hf_split": "test"}, ("test", "beta"): {"hf_split": "dev"}}
    found = Contamination(40, 900, 0, benchmarks=("beta",))
    verdict = judged(make, tmp_path, ONE, ALL, notes=notes, contamination=found)
    assert verdict["passed"]
    assert "It was trained on the training split of alpha" in verdict["paragraph"]
    assert "1 benchmark tasks were not looked for when the training data were prepared (alpha)" in verdict["paragraph"]


def test_test_texts_are_found_in_training_data_word_for_word(
    make_eval_folder: Callable[..., Path], tmp_path: Path
) -> None:
    eval_sets = make_eval_folder(tmp_path / "eval")
    from nvembed.evaluation.sets import read_sets

    passage = next(iter(read_sets(eval_sets, ["test"])[2].corpus.values()))

    def training(name: str, texts: list[tuple[str, str]]) -> Path:
        folder = tmp_path / name
        write_examples(
            folder,
            [
                Example(f"t{n}", "retrieval", query, positive, (), "", "", "made up", "CC0-1.0", f"{name}{n}")
                for n, (query, positive) in enumerate(texts)
            ],
        )
        extra = {"decontamination": {"checked_against": {"NFCorpus": {"texts": 3}}}}
        write_manifest(folder, kind="dataset", section={}, extra=extra)
        return folder

    clean = find_contamination(eval_sets, training("clean", [("what is it", "nothing of theirs")] * 3), ["test"])
    assert (clean.found, clean.examples, clean.benchmarks) == (0, 3, ("NFCorpus",)) and clean.texts > 50
    shouted = passage.upper().replace(" ", ",  ")
    dirty = find_contamination(eval_sets, training("dirty", [("a", shouted), (passage, "b"), ("c", "d")]), ["test"])
    assert (dirty.found, dirty.examples, dirty.example) == (2, 3, passage)


def test_uses_of_a_test_set_are_counted_by_model(tmp_path: Path) -> None:
    assert count_judgement(tmp_path, "a", ["x"]) == {"x": 1}
    assert count_judgement(tmp_path, "b", ["x", "y"]) == {"x": 2, "y": 1}
    assert count_judgement(tmp_path, "a", ["x", "y"]) == {"x": 1, "y": 2}, "judged again it keeps its number"
    assert count_judgement(tmp_path, "c", ["x"]) == {"x": 3}
    (tmp_path / FILE).write_text("{no json\n", encoding="utf-8")
    with pytest.raises(UserError, match="list of judgements cannot be kept"):
        count_judgement(tmp_path, "d", ["x"])


def test_the_verdict_says_how_often_its_test_sets_have_judged(make: Make, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    first = judged(make, tmp_path, ONE, ALL, ledger=ledger)
    assert set(first["uses"].values()) == {1} and "the first model that these test sets judge" in first["paragraph"]
    again = judged(make, tmp_path, ONE, ALL, ledger=ledger)
    assert again["uses"] == first["uses"]
    for other in range(3):
        verdict = judged(make, tmp_path, ONE, dict.fromkeys(TASKS, 0.05 + other / 100), ledger=ledger)
    assert set(verdict["uses"].values()) == {3}
    assert verdict["chance_to_pass_by_luck"]["so_far"] == pytest.approx(1 - 0.975**3)
    assert "have judged 3 models so far" in verdict["paragraph"] and "up to 7%" in verdict["paragraph"]


def some_draws(shift: float, count: int, seed: int, samples: int = 2000) -> dict[int, Draws]:
    """Differences on `count` tasks with standard error 1, the first of them moved by `shift`."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, count)
    values[0] += shift
    return {task: Draws(float(value), value + rng.normal(0, 1, samples)) for task, value in enumerate(values)}


def test_one_task_alone_needs_no_correction() -> None:
    (found,) = correct(some_draws(2.0, 1, 3), 0.95).values()
    assert found.p == found.p_corrected
    assert found.high_all - found.low_all == pytest.approx(2 * 1.96, rel=0.06)


def test_among_many_equal_tasks_a_false_find_is_as_rare_as_stated() -> None:
    # 40 tasks without a difference: some own interval or p-value "finds" one nearly always, the corrected in 5 of 100
    own = together = outside = 0
    for trial in range(200):
        found = correct(some_draws(0.0, 40, trial, samples=500), 0.95).values()
        own += any(one.p < 0.05 for one in found)
        together += any(one.p_corrected < 0.05 for one in found)
        outside += any(not one.low_all <= 0 <= one.high_all for one in found)
    assert own > 150
    assert 2 <= together <= 19 and abs(outside - together) <= 2


def test_correction_agrees_with_holm_where_tasks_are_independent_and_keeps_the_order() -> None:
    draws = some_draws(4.0, 10, 11, samples=20_000)
    found = correct(draws, 0.95)
    raw = np.array([found[task].p for task in draws])
    holm, reached = np.empty(10), 0.0
    for place, row in enumerate(np.argsort(raw)):
        reached = max(reached, min(1.0, raw[row] * (10 - place)))
        holm[row] = reached
    ours = np.array([found[task].p_corrected for task in draws])
    assert (ours >= raw).all() and (ours <= holm + 0.01).all()
    small = holm < 0.2
    assert small.any() and ours[small] == pytest.approx(holm[small], rel=0.15, abs=0.002)


def test_equal_models_differ_by_nothing_however_many_tasks() -> None:
    found = correct({task: Draws(0.0, np.zeros(100)) for task in range(3)}, 0.95)
    assert {(one.p, one.p_corrected, one.low_all, one.high_all) for one in found.values()} == {(1.0, 1.0, 0.0, 0.0)}


def test_what_serving_costs_is_measured() -> None:
    from nvembed.modeling import NVEmbedModel
    from nvembed.recipe import load_recipe

    model = NVEmbedModel.from_section(load_recipe("tiny").model)
    served = measure_serving(model)
    own = [weight for name, weight in model.named_parameters() if "lora_" not in name]
    assert served["parameters"] == sum(weight.numel() for weight in own)
    assert served["size_mb"] == pytest.approx(4 * served["parameters"] / 1e6, abs=0.1)
    assert 0 < served["query_ms_p50"] <= served["query_ms_p95"] and served["documents_per_second"] > 1
