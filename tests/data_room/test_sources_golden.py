"""Every source of the paper's recipes has an adapter, a stand-in in its real schema, and a golden finished example."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mix_golden import GOLDEN, GOLDEN_ROWS, RECIPES, first_examples
from mix_stand_in import write_stand_in

from nvembed.data.adapters import SourceReader, open_mix
from nvembed.data.adapters.mix import left_out
from nvembed.recipe import load_recipe

BINARY = {"amazon-counterfactual", "imdb", "toxic-conversations", "amazon-polarity"}
BY_EXAMPLE = {"emotion", "massive-intent", "massive-scenario", "mtop-domain", "mtop-intent"}


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stand_in(tmp_path_factory.mktemp("hub"), GOLDEN_ROWS)


@pytest.fixture(scope="module")
def golden() -> Mapping[tuple[str, str], dict[str, Any]]:
    rows = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]
    return {(row["recipe"], row["source"]): row for row in rows}


def test_every_source_gives_its_golden_example(mirror: Path, golden: Mapping[tuple[str, str], dict[str, Any]]) -> None:
    made = {(row["recipe"], row["source"]): json.loads(json.dumps(row)) for row in first_examples(mirror)}
    assert made == golden


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_source_but_the_synthetic_one_is_golden(
    recipe: str, golden: Mapping[tuple[str, str], dict[str, Any]]
) -> None:
    named = set(load_recipe(recipe).data.sources) - {"synthetic"}
    assert {source for name, source in golden if name == recipe} == named


def test_the_recipes_hold_the_papers_lists() -> None:
    v1, v2 = (load_recipe(name).data.sources for name in RECIPES)
    assert len(v1) == 11 + 8 + 7 + 3
    assert set(v2) - set(v1) == {
        *("hover", "scifact", "nfcorpus", "miracl", "mrtydi", "synthetic"),
        *("mtop-domain", "amazon-polarity", "massive-intent", "massive-scenario"),
        *("reddit", "reddit-p2p", "stackexchange-s2s", "stackexchange-p2p"),
    }
    assert {name: source for name, source in v2.items() if name in v1} == v1
    for source in v2.values():
        assert source.stages == ([1, 2] if source.task_type == "retrieval" else [2])


def test_version_2_labels_by_example_what_the_paper_names_and_version_1_by_text() -> None:
    v1, v2 = (load_recipe(name).data for name in RECIPES)
    assert v1.label_rule == "label-text" and v2.label_rule is None
    ruled = {name: source.label_rule for name, source in v2.sources.items() if source.task_type == "classification"}
    assert {name for name, rule in ruled.items() if rule == "example-based"} == BY_EXAMPLE
    assert {name for name, rule in ruled.items() if rule == "label-text"} >= BINARY
    clustering = [source for source in v2.sources.values() if source.task_type == "clustering"]
    assert len(clustering) == 11
    assert {source.label_rule or source.shape for source in clustering} == {"example-based", "lists"}


def test_only_a_labels_text_goes_without_the_instruction_among_symmetric_tasks(
    golden: Mapping[tuple[str, str], dict[str, Any]],
) -> None:
    for (recipe, source), row in golden.items():
        lists = row["task_type"] == "clustering" and source == "twenty-newsgroups"
        by_text = row["task_type"] in ("classification", "clustering") and not lists
        by_text = by_text and (recipe == "nvembed-v1" or (row["task_type"] == "classification" and
                                                          source not in BY_EXAMPLE))  # fmt: skip
        bare = row["task_type"] == "retrieval" or by_text
        assert row["document_instruction"] == ("" if bare else row["query_instruction"]), (recipe, source)


def test_the_synthetic_source_is_left_out_and_that_is_said(mirror: Path) -> None:
    data = load_recipe("nvembed-v2", [f"data.hub_mirror={mirror}"]).data
    assert left_out(data) == {"synthetic": "the synthesis section writes it, where that is on"}
    assert "synthetic" not in {reader.name for reader in open_mix(data)}


@pytest.mark.parametrize("name", ["banking77", "stackexchange-s2s", "fiqa", "stsbenchmark"])
def test_a_source_gives_the_same_examples_each_time(name: str, mirror: Path) -> None:
    data = load_recipe("nvembed-v2", [f"data.hub_mirror={mirror}"]).data
    reader = SourceReader(name, data.sources[name], data)
    first = list(reader.examples())
    assert first == list(reader.examples()) == list(SourceReader(name, data.sources[name], data).examples())


def test_every_evaluation_set_that_a_source_must_not_train_on_can_be_read(mirror: Path) -> None:
    data = load_recipe("nvembed-v2", [f"data.hub_mirror={mirror}"]).data
    guarded = [name for name, source in data.sources.items() if source.held_out]
    assert {name for name, source in data.sources.items() if source.task_type != "retrieval"} == set(guarded)
    for name in guarded:
        assert list(SourceReader(name, data.sources[name], data).held_out_texts())
    of_sts = list(SourceReader("sts12", data.sources["sts12"], data).held_out_texts())
    assert of_sts == ["A test.", "One more."]
