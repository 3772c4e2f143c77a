"""One recipe holds every choice: typed sections, presets, overrides, digests."""

from nvembed.recipe.ablation import Ablation, Family, Variant
from nvembed.recipe.batches import Batches
from nvembed.recipe.blocks import LatentBlock, LoRA
from nvembed.recipe.evaluation import AirBench, Evaluation, OwnSet, Seen
from nvembed.recipe.licences import refused_sources, refusing_pattern, what_falls_out
from nvembed.recipe.load import list_presets, load_recipe, section_from_json, section_json, variant_recipe
from nvembed.recipe.losses import Distillation, FalseNegatives, Hardness, InBatch, Matryoshka
from nvembed.recipe.mining import CrossEncoder, Mining, Sampling, Search, Teacher
from nvembed.recipe.prices import Prices
from nvembed.recipe.registration import Registration
from nvembed.recipe.resources import Resources, Toleration, TrainJob
from nvembed.recipe.schema import SECTIONS, Data, Model, Recipe, Stage
from nvembed.recipe.sources import Place, Source, Table
from nvembed.recipe.synthesis import Endpoint, Synthesis
from nvembed.recipe.watching import BadSteps, DevCheck

__all__ = [
    "SECTIONS",
    "Ablation",
    "AirBench",
    "BadSteps",
    "Batches",
    "CrossEncoder",
    "Data",
    "DevCheck",
    "Distillation",
    "Endpoint",
    "Evaluation",
    "FalseNegatives",
    "Family",
    "Hardness",
    "InBatch",
    "LatentBlock",
    "LoRA",
    "Matryoshka",
    "Mining",
    "Model",
    "OwnSet",
    "Place",
    "Prices",
    "Recipe",
    "Registration",
    "Resources",
    "Sampling",
    "Search",
    "Seen",
    "Source",
    "Stage",
    "Synthesis",
    "Table",
    "Teacher",
    "Toleration",
    "TrainJob",
    "Variant",
    "list_presets",
    "load_recipe",
    "refused_sources",
    "refusing_pattern",
    "section_from_json",
    "section_json",
    "variant_recipe",
    "what_falls_out",
]
