"""From a recipe's `ablation` section to arms (a variant with its whole recipe) and cells (an arm, a factor, a seed)."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nvembed.core.errors import UserError
from nvembed.recipe import Family, Model, Recipe, Stage, variant_recipe
from nvembed.steps.door import check_recipe


@dataclass(frozen=True)
class Arm:
    """A variant of a family, with its whole recipe. `paper` is what the paper measured for it, if it did."""

    family: str
    variant: str
    label: str
    paper: float | None
    recipe: Recipe
    stages: tuple[str, ...]

    def budget(self) -> tuple[int, int]:
        """Steps and examples of a training, all stages together."""
        stages = [getattr(self.recipe, name) for name in self.stages]
        return sum(stage.steps for stage in stages), sum(stage.steps * stage.batch_size for stage in stages)

    def trained_on(self) -> list[str]:
        """Task types that its stages train on."""
        return [*dict.fromkeys(kind for name in self.stages for kind in getattr(self.recipe, name).task_types)]


@dataclass(frozen=True)
class Cell:
    """An arm trained once: all its learning rates times `factor`, order of the data and new weights from `seed`."""

    arm: Arm
    factor: float
    seed: int

    def model(self) -> Model:
        """The model section, its new weights drawn from the cell's seed."""
        return self.arm.recipe.model.model_copy(update={"seed": self.seed})

    def stages(self) -> list[tuple[str, Stage]]:
        """Names and sections of the stages in the order of their training."""
        return [(name, self._stage(getattr(self.arm.recipe, name))) for name in self.arm.stages]

    def _stage(self, stage: Stage) -> Stage:
        latent = stage.latent_learning_rate
        rates = {
            "learning_rate": stage.learning_rate * self.factor,
            "latent_learning_rate": None if latent is None else latent * self.factor,
        }
        return stage.model_copy(update={**rates, "seed": self.seed})

    def __str__(self) -> str:
        return f"{self.arm.family}/{self.arm.variant}, rates × {self.factor:g}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """What is to be compared: arms by family, the baseline's first among them; `tasks` are judged, by family."""

    recipe: Recipe
    arms: dict[str, list[Arm]]
    tasks: dict[str, list[str]]

    @property
    def seeds(self) -> list[int]:
        """The first one picks the learning rates."""
        assert self.recipe.ablation is not None
        return self.recipe.ablation.seeds

    @property
    def factors(self) -> list[float]:
        """The grid, lowest first."""
        assert self.recipe.ablation is not None
        return sorted(self.recipe.ablation.learning_rate_factors)

    def family(self, name: str) -> Family:
        """A family's section."""
        assert self.recipe.ablation is not None
        return self.recipe.ablation.families[name]

    def all_arms(self) -> Iterator[Arm]:
        """Every arm, family by family."""
        for arms in self.arms.values():
            yield from arms


def make_plan(recipe: Recipe, families: Sequence[str] = ()) -> Plan:
    """Check the recipe and each variant of it, and write the digests of models and data into their sections.

    `families` names those wanted; none: all.

    Raises:
        UserError: a recipe without an ablation, an unknown family, whatever `steps.door.check_recipe` refuses, a
            variant whose model or teacher cannot be had.
    """
    if recipe.ablation is None:
        raise UserError(f"recipe {recipe.name}: has no section `ablation`; take --recipe ablate or write one")
    known = list(recipe.ablation.families)
    for name in families:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(f"ablation family {name!r} is unknown{hint}; known: {', '.join(known)}")
    if "dev" not in recipe.evaluation.splits or "test" not in recipe.evaluation.splits:
        raise UserError("evaluation.splits: an ablation picks on dev and judges on test; give [dev, test]")
    if recipe.synthesis.enabled:
        raise UserError(
            "synthesis.enabled is true, but an ablation takes data as they are; set it to false, and name pairs in "
            "data.path if you have some"
        )
    checked = check_recipe(recipe)
    arms = {name: _arms(checked, name) for name in families or known}
    return Plan(checked, arms, {name: _judged(checked, group[0]) for name, group in arms.items()})


def _arms(recipe: Recipe, name: str) -> list[Arm]:
    """A family's arms, the baseline first."""
    assert recipe.ablation is not None
    family = recipe.ablation.families[name]
    order = [family.baseline, *(variant for variant in family.variants if variant != family.baseline)]
    arms = []
    for variant in order:
        section = family.variants[variant]
        made = _with_digests(variant_recipe(recipe, name, variant))
        stages = tuple(family.stages_of(variant))
        arms.append(Arm(name, variant, section.label or variant, section.paper, made, stages))
    return arms


def _with_digests(recipe: Recipe) -> Recipe:
    from nvembed import modeling
    from nvembed.mining.teachers import check_mining

    modeling.check_section(recipe.model)
    model = recipe.model.model_copy(update={"digest": modeling.backbone_digest(recipe.model)})
    return recipe.model_copy(update={"model": model, "mining": check_mining(recipe.mining)})


def _judged(recipe: Recipe, baseline: Arm) -> list[str]:
    """Tasks that a family is judged by: those its baseline trains on and the data gives eval sets for."""
    from nvembed.steps.door import MEASURED

    given = ["retrieval"] if recipe.data.source == "file" else recipe.data.task_types
    tasks = [task for task in MEASURED if task in given and task in baseline.trained_on()]
    if not tasks:
        raise UserError(
            f"ablation family {baseline.family!r}: its baseline trains on {', '.join(baseline.trained_on())}, but the "
            f"data gives eval sets for {', '.join(given)}; nothing could be judged"
        )
    return tasks
