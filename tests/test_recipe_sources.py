"""Recipes of a mix: laid over a preset, cut down, and refused where they contradict themselves."""

from __future__ import annotations

import json

import pytest
import yaml

from nvembed.core.errors import UserError
from nvembed.recipe import Recipe, load_recipe, refusing_pattern, section_json, what_falls_out

OVER = "extends: nvembed-v2\nname: mine\n"


def refusal(recipe: str, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        load_recipe(recipe, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["nvembed-v1", "nvembed-v2", "single-gpu", "finetune-nvembed"])
def test_a_recipe_of_the_paper_is_whole_and_survives_yaml(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert load_recipe(yaml.safe_dump(recipe.model_dump(mode="json"))) == recipe
    assert Recipe.model_validate(json.loads(json.dumps(recipe.model_dump(mode="json")))) == recipe


def test_the_papers_numbers_stand_in_its_recipes() -> None:
    v1, v2 = load_recipe("nvembed-v1"), load_recipe("nvembed-v2")
    for recipe in (v1, v2):
        assert recipe.model.backbone == "mistralai/Mistral-7B-v0.1" and recipe.model.text_rule == "nv-embed"
        latent, lora = recipe.model.latent, recipe.model.lora
        assert (latent.num_latents, latent.num_heads, latent.head_dim) == (512, 8, 4096)
        assert (lora.rank, lora.alpha, lora.dropout) == (16, 32, 0.1)
        assert recipe.stage1.in_batch.enabled and not recipe.stage2.in_batch.enabled
        assert recipe.resources.processes == recipe.resources.accelerators == 8
    assert (v1.stage1.warmup_steps, v2.stage1.warmup_steps) == (500, 50)
    assert v2.mining.teacher.backbone == "intfloat/e5-mistral-7b-instruct"
    assert (v2.mining.method, v2.mining.threshold) == ("percentage", 0.95)


def test_a_recipe_laid_over_another_changes_what_it_names_alone() -> None:
    recipe = load_recipe(OVER + "data: {sources: {paq: {cap: 1000}}}\nstage1: {steps: 5}\n")
    base = load_recipe("nvembed-v2")
    assert (recipe.stage1.steps, recipe.stage2) == (5, base.stage2)
    assert recipe.data.sources["paq"] == base.data.sources["paq"].model_copy(update={"cap": 1000})
    assert recipe.data.sources["nq"] == base.data.sources["nq"]


@pytest.mark.parametrize(
    ("extends", "says"), [("nvembed-v3", "did you mean 'nvembed-v"), ("[a]", "no recipe that ships")]
)
def test_a_recipe_that_lies_over_nothing_is_refused(extends: str, says: str) -> None:
    assert says in refusal(f"extends: {extends}\nname: mine\n")


def test_a_source_is_taken_out_by_null_and_chosen_by_name() -> None:
    without = load_recipe("nvembed-v2", ["data.sources.paq=null"]).data
    assert set(load_recipe("nvembed-v2").data.sources) - set(without.sources) == {"paq"}
    chosen = load_recipe("nvembed-v2", ["data.only=[nq, fiqa]"]).data
    assert set(chosen.sources) == {"fiqa", "nq"}
    assert "only names 'nqq', which is no source" in refusal("nvembed-v2", "data.only=[nqq]")
    assert "only names 'nq', which is no source" in refusal("nvembed-v2", "data.only=[nq]", "data.sources.nq=null")


def test_stage_1_sees_the_retrieval_sources_and_stage_2_all_of_them() -> None:
    data = load_recipe("nvembed-v2").data
    assert data.of_stage(2) == sorted(data.sources)
    assert data.of_stage(1) == sorted(name for name, one in data.sources.items() if one.task_type == "retrieval")


def test_a_mistyped_key_of_a_source_is_refused_with_the_nearest() -> None:
    said = refusal("nvembed-v2", "data.sources.paq.capp=3")
    assert "unknown key 'data.sources.paq.capp' (did you mean 'cap'?)" in said
    said = refusal("nvembed-v2", "data.sources.bioasq.corpus.splt=x")
    assert "unknown key 'data.sources.bioasq.corpus.splt' (did you mean 'split'?)" in said


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{}", "needs one of repo, path and synthesis: true"),
        ("{repo: o/a, path: b.jsonl}", "has both repo and path"),
        ("{repo: no-owner}", "data.sources.mine.repo"),
        ("{repo: o/a, stages: []}", "data.sources.mine.stages"),
        ("{repo: o/a, shape: labelled, task_type: classification}", "shape labelled needs label_rule"),
        ("{repo: o/a, label_rule: label-text}", "shape pairs has no labels: drop label_rule"),
        ("{repo: o/a, shape: graded, task_type: sts}", "shape graded needs min_score"),
        ("{repo: o/a, min_score: 4}", "min_score is for shape graded alone"),
        ("{repo: o/a, corpus: {repo: o/b}}", "shape pairs has its texts in its rows"),
        ("{repo: o/a, known: {columns: X}}", "data.sources.mine.known.columns"),
        ("{repo: o/a, task_type: pair}", "is for stage 1, but stage1.task_types lacks its pair"),
    ],
)
def test_a_source_that_contradicts_itself_is_refused(source: str, says: str) -> None:
    assert says in refusal(OVER + f"data: {{sources: {{mine: {source}}}}}\n")


def test_a_mix_of_nothing_is_refused() -> None:
    assert "source is 'mix' but sources is empty" in refusal("tiny", "data.source=mix")


def test_a_file_takes_the_place_of_a_mix() -> None:
    assert load_recipe("single-gpu", ["data.path=mine.jsonl"]).data.source == "file"


def test_a_mapping_may_be_merged_but_no_key_given_twice() -> None:
    text = OVER + "data:\n  sources:\n    a: &a {repo: o/a, cap: 3}\n    b: {<<: *a, cap: 4}\n"
    sources = load_recipe(text).data.sources
    assert (sources["a"].cap, sources["b"].cap, sources["b"].repo) == (3, 4, "o/a")
    assert "key 'cap' is given twice" in refusal(text.replace("cap: 4", "cap: 4, cap: 5"))


@pytest.mark.parametrize(
    ("license", "pattern", "refused"),
    [
        ("cc-by-nc-4.0", "non-commercial", True),
        ("msr-la-nc", "non-commercial", True),
        ("custom (research only)", "non-commercial", True),
        ("apache-2.0", "non-commercial", False),
        ("cc-by-sa-4.0", "share-alike", True),
        ("cc-by-4.0", "share-alike", False),
        ("unspecified", "unspecified", True),
        ("unspecified (see biorxiv.org/content/about-biorxiv)", "unspecified", True),
        ("mit", "unspecified", False),
        ("CC-BY-4.0", "cc-by-*", True),
        ("mit", "cc-by-*", False),
    ],
)
def test_a_licence_is_refused_by_its_class_or_its_name(license: str, pattern: str, refused: bool) -> None:
    assert (refusing_pattern(license, [pattern]) == pattern) is refused


def test_what_falls_out_is_named_with_its_share_of_the_mix() -> None:
    data = load_recipe("nvembed-v2", ["data.forbid_licenses=[non-commercial]"]).data
    said = what_falls_out(data.sources, data.forbid_licenses)
    lost = {"amazon-reviews", "fever", "msmarco", "nq", "scifact"}
    rows = {name: source.expected or 0 for name, source in data.sources.items()}
    share = 100 * sum(rows[name] for name in lost) / sum(rows.values())
    assert f"leaves out 5 of 43 sources, {share:.1f} % of the" in said
    assert all(f"{name} (" in said for name in lost)


def test_a_changed_source_changes_the_data_section_and_no_other() -> None:
    before, after = load_recipe("nvembed-v2"), load_recipe("nvembed-v2", ["data.sources.paq.cap=9"])
    assert section_json(before.data) != section_json(after.data)
    assert before.model_copy(update={"data": after.data}) == after
