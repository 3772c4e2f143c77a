"""One recipe holds every choice: typed sections, presets, overrides, digests."""

from nvembed.recipe.blocks import LatentBlock, LoRA
from nvembed.recipe.load import list_presets, load_recipe, section_from_json, section_json
from nvembed.recipe.losses import Distillation, FalseNegatives, Hardness, InBatch, Matryoshka
from nvembed.recipe.schema import (
    SECTIONS,
    Data,
    Evaluation,
    Mining,
    Model,
    Recipe,
    Registration,
    Resources,
    Stage,
    Synthesis,
    Teacher,
)

__all__ = [
    "SECTIONS",
    "Data",
    "Distillation",
    "Evaluation",
    "FalseNegatives",
    "Hardness",
    "InBatch",
    "LatentBlock",
    "LoRA",
    "Matryoshka",
    "Mining",
    "Model",
    "Recipe",
    "Registration",
    "Resources",
    "Stage",
    "Synthesis",
    "Teacher",
    "list_presets",
    "load_recipe",
    "section_from_json",
    "section_json",
]
