"""A recipe is checked as a whole; what is wrong with it is said in one line that names the mend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from nvembed.core.errors import UserError
from nvembed.recipe import SECTIONS, Recipe, list_presets, load_recipe, section_from_json, section_json

MINIMAL = """
name: mine
model: {backbone: "random:mistral-tiny"}
mining: {teacher: {backbone: "random:mistral-tiny"}}
stage1: {steps: 3}
stage2: {steps: 2}
"""


def refusal(recipe: str, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        load_recipe(recipe, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["tiny", "laptop", "laptop-llm", "ablate"])
def test_a_preset_loads_under_its_own_name(name: str) -> None:
    assert load_recipe(name).name == name


def test_every_preset_says_what_it_is_for() -> None:
    presets = list_presets()
    assert {"tiny", "laptop", "laptop-llm"} <= set(presets)
    assert all(presets.values())


def test_a_recipe_may_be_a_text_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MINIMAL)
    assert load_recipe(MINIMAL) == load_recipe(str(tmp_path / "mine.yaml"))


def test_an_unknown_recipe_is_refused_with_the_nearest_name() -> None:
    assert "did you mean 'laptop'?" in refusal("latop")


def test_a_file_that_is_not_there_is_refused() -> None:
    assert "no/such.yaml: cannot be read" in refusal("no/such.yaml")


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("stage1.stpes=3", "steps"),
        ("stage_1=3", "stage1"),
        ("minning=3", "mining"),
        ("model.lora.rnk=3", "rank"),
        ("mining.teacher.poling=mean", "pooling"),
        ("data.columns.positiv=answer", "positive"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(override: str, nearest: str) -> None:
    said = refusal("tiny", override)
    assert f"unknown key '{override.split('=')[0]}'" in said
    assert f"did you mean '{nearest}'?" in said


def test_an_unknown_key_like_no_other_is_refused_with_what_is_known() -> None:
    said = refusal("tiny", "resources.zzzz=1")
    assert "did you mean" not in said
    assert "known here:" in said and "processes" in said


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("stage1.steps=0", "stage1.steps"),
        ("stage1.steps=many", "stage1.steps"),
        ("stage1.learning_rate=.nan", "stage1.learning_rate"),
        ("mining.method=best", "mining.method"),
        ("data.dev_fraction=1.5", "data.dev_fraction"),
        ("model.query_template=no fields", "query_template must contain {task} and {text}"),
        ("stage2.document_max_length=4096", "above model.max_length"),
        ("data.source=file", "path is not set"),
        ("registration.name=has space", "registration.name"),
    ],
)
def test_a_bad_value_is_refused_and_named(override: str, says: str) -> None:
    assert says in refusal("tiny", override)


def test_a_stage_that_could_learn_nothing_is_refused() -> None:
    assert "nothing to learn from" in refusal("tiny", "stage1.negatives=0", "stage1.in_batch.enabled=false")


def test_queries_of_one_task_with_in_batch_negatives_are_enough_to_learn_from() -> None:
    load_recipe("tiny", ["stage1.negatives=0", "stage1.in_batch.enabled=false", "stage1.in_batch.on_for=[retrieval]"])


def test_in_batch_negatives_under_their_old_name_are_refused_with_the_new_one() -> None:
    said = refusal("tiny", "stage2.in_batch_negatives=true")
    assert "stage2: in_batch_negatives is now in_batch.enabled; write" in said


def test_a_stage_without_a_word_on_its_loss_has_the_plain_one() -> None:
    stage = load_recipe(MINIMAL).stage1
    assert stage.in_batch.model_dump() == {
        "enabled": True,
        "on_for": [],
        "off_for": [],
        "others_hard_negatives": True,
        "weight": 1.0,
    }
    assert stage.hard_negatives_weight == 1
    assert stage.false_negatives.model_dump() == {"same_class": False, "margin": None}
    assert stage.hardness.strength == 0 and stage.matryoshka.dims == [] and stage.distillation.weight == 0


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["stage1.in_batch={on_for: [a, b], off_for: [b]}"], "b: in both on_for and off_for"),
        (["stage1.in_batch.weight=0"], "stage1.in_batch.weight"),
        (["stage1.matryoshka={dims: [8, 16], weights: [1]}"], "2 dims but 1 weights"),
        (["stage1.matryoshka.dims=[8, 8]"], "dims names a length twice"),
        (["stage1.hardness.of=soft"], "stage1.hardness.of"),
        (["stage2.distillation.weight=1", "mining.enabled=false"], "stage2.distillation.weight is above 0, but mining"),
    ],
)
def test_a_loss_that_contradicts_itself_is_refused(overrides: list[str], says: str) -> None:
    assert says in refusal("tiny", *overrides)


def test_a_missing_section_is_named() -> None:
    assert "key 'stage2' is missing" in refusal(MINIMAL.replace("stage2: {steps: 2}", ""))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MINIMAL + "stage1: {steps: 4}\n", "key 'stage1' is given twice"),
        (MINIMAL.replace("{steps: 3}", "{steps: 3, steps: 4}"), "key 'steps' is given twice"),
        ("- a\n- list\n", "a recipe is a mapping of sections, but this is a list"),
        ("name: [\n", "not valid YAML"),
        ("? [a, list]\n: as key\n", "not valid YAML"),
        ("\tname: x\n", "not valid YAML"),
        (MINIMAL + "a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_a_text_that_is_no_recipe_is_refused(text: str, says: str) -> None:
    assert says in refusal(text)


def test_the_pipelines_placeholder_is_refused_wherever_it_stands() -> None:
    assert "placeholder" in refusal(MINIMAL + "description: '{{$.inputs}}'\n")
    assert "placeholder" in refusal("tiny", "data.path={{$.json_escape}}")


def test_overrides_are_read_as_yaml_and_the_last_one_wins() -> None:
    recipe = load_recipe(
        "tiny",
        ["stage1.steps=7", "stage1.steps=8", "model.lora.enabled=false", "stage2.task_types=[retrieval]",
         "model.revision=abc=def", "stage1.learning_rate=1e-5"],
    )  # fmt: skip
    assert recipe.stage1.steps == 8
    assert recipe.model.lora.enabled is False
    assert recipe.stage2.task_types == ["retrieval"]
    assert recipe.model.revision == "abc=def"
    assert recipe.stage1.learning_rate == 1e-5


def test_an_override_changes_its_section_and_no_other() -> None:
    before, after = load_recipe("tiny"), load_recipe("tiny", ["stage2.steps=9"])
    changed = [name for name in SECTIONS if section_json(getattr(before, name)) != section_json(getattr(after, name))]
    assert changed == ["stage2"]


@pytest.mark.parametrize("override", ["stage1.steps", "=3", "stage1..steps=3", ".steps=3"])
def test_an_override_of_the_wrong_form_is_refused(override: str) -> None:
    assert "write it as section.key=value" in refusal("tiny", override)


def test_an_override_below_a_value_is_refused() -> None:
    assert "is a value, not a section" in refusal("tiny", "name.first=x")


def test_a_path_means_a_file() -> None:
    assert load_recipe("tiny", ["data.path=my.jsonl"]).data.source == "file"


@pytest.mark.parametrize("preset", ["tiny", "laptop", "laptop-llm"])
@pytest.mark.parametrize("name", list(SECTIONS))
def test_a_section_survives_its_canonical_json(preset: str, name: str) -> None:
    section = getattr(load_recipe(preset), name)
    text = section_json(section)
    assert section_from_json(SECTIONS[name], text) == section
    assert section_json(section_from_json(SECTIONS[name], json.dumps(json.loads(text), indent=3))) == text


def test_a_recipe_survives_yaml() -> None:
    recipe = load_recipe("laptop")
    assert load_recipe(yaml.safe_dump(recipe.model_dump(mode="json"))) == recipe


def test_a_section_that_is_no_json_is_refused() -> None:
    with pytest.raises(UserError, match="mining section: not JSON"):
        section_from_json(SECTIONS["mining"], "{")


def test_the_sections_are_those_of_the_recipe() -> None:
    others = ("name", "description", "ablation")
    assert {n: f.annotation for n, f in Recipe.model_fields.items() if n not in others} == SECTIONS


def test_a_checked_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_recipe("tiny").stage1.steps = 5  # type: ignore[misc]
