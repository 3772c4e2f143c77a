"""Dev picks, test judges: with measurements planted where the cells' own would lie, so that nothing is trained."""

from __future__ import annotations

import json
import random

import pytest
from ablation.small import plant, small_recipe, write_pairs

from nvembed.ablation import Runner, make_plan
from nvembed.core.artifacts import read_manifest

BEST_ON_TEST = {"latent": 0.7, "mean": 0.5, "last": 0.7}


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    """Dev prefers the factor 0.5, test 2.0; `mean` is much worse than the baseline on test, `last` as good."""
    folder = tmp_path_factory.mktemp("planted")
    draw = random.Random(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NVEMBED_STATE", str(folder / "state"))
        runner = Runner(make_plan(small_recipe(write_pairs(folder / "my.jsonl")), ["pooling"]))
        for arm in runner.plan.arms["pooling"]:
            for factor in (0.5, 2.0):
                dev, test = (0.6, BEST_ON_TEST[arm.variant]) if factor == 0.5 else (0.4, 0.99)
                plant(runner.work(arm, factor, 1), "dev", lambda _, dev=dev: dev)
                for seed in (1, 2):
                    work = runner.work(arm, factor, seed)
                    plant(work, "test", lambda i, test=test: min(1.0, test + 0.1 * (i % 3) + draw.gauss(0, 0.01)))
        yield runner


@pytest.fixture(scope="module")
def written(runner, tmp_path_factory):
    out = tmp_path_factory.mktemp("written") / "ablate"
    return runner.run(out), out


def test_the_rate_is_the_one_that_dev_prefers_whatever_test_would_say(runner, written):
    content, _ = written
    assert set(runner.picks().values()) == {0.5}
    latent = content["families"]["pooling"]["variants"]["latent"]
    assert latent["picked_factor"] == 0.5
    assert all(scores["retrieval"] < 0.95 for scores in latent["test"].values())


def test_what_is_there_already_is_not_done_again(runner, written):
    assert runner.missing() == (0, 12)
    assert not list((runner.work(runner.plan.arms["pooling"][0], 0.5, 1).folder).glob("seconds.json"))


def test_only_the_grid_and_the_picked_rates_are_asked_for(runner):
    assert {split for _, split in runner.grid()} == {"dev"} and len(runner.grid()) == 6
    final = runner.final(runner.picks())
    assert len(final) == 6 and {split for _, split in final} == {"test"}
    rates = {stage.learning_rate for work, _ in final for _, stage in work.stages}
    assert rates == {0.5 * runner.plan.recipe.stage1.learning_rate}


def test_verdicts_are_worse_and_not_resolved_as_planted(written):
    content, _ = written
    rows = {row["variant"]: row for row in content["families"]["pooling"]["differences"]}
    assert rows["mean"]["verdict"] == "worse" and rows["mean"]["high"] < 0
    assert rows["mean"]["mean"] == pytest.approx(-0.2, abs=0.01)
    assert rows["last"]["verdict"] == "not resolved" and rows["last"]["low"] <= 0 <= rows["last"]["high"]
    assert rows["mean"]["paper_difference"] == -0.6


def test_the_report_says_so_in_words_and_beside_the_paper(written):
    _, out = written
    page = (out / "report.md").read_text()
    assert "Differences from the baselines: 0 better, 1 worse, 1 not resolved" in page
    mean, last = (
        next(line for line in page.splitlines() if line.startswith(f"| {name} |")) for name in ("mean", "last")
    )
    assert "| worse | −0.60, same way |" in mean
    assert "| not resolved | −0.68 |" in last


def test_the_folder_is_whole_and_keeps_every_cells_numbers(written):
    content, out = written
    assert read_manifest(out, kind="ablation", verify=True).counts == {"families": 1, "comparisons": 2}
    assert json.loads((out / "results.json").read_text()) == content
    assert (out / "ablation.png").stat().st_size > 10_000
    assert "data:image/png;base64," in (out / "report.html").read_text()
    assert set(content["families"]["pooling"]["variants"]["last"]["test"]) == {"1", "2"}


def test_variants_with_equal_sections_share_their_cells(runner, monkeypatch):
    monkeypatch.setenv("NVEMBED_STATE", str(runner.work(runner.plan.arms["pooling"][0], 0.5, 1).folder.parents[1]))
    both = Runner(make_plan(runner.plan.recipe))
    (latent, *_), (first, _) = both.plan.arms["pooling"], both.plan.arms["stages"]
    assert both.work(latent, 0.5, 1).folder == both.work(first, 0.5, 1).folder
    assert len(both.grid()) == 8
