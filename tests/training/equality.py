"""What the tests of equality share: cases for the rank program, what came of them, and how gradients are compared."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from training.support import HERE, torchrun

from nvembed.modeling import NVEmbedModel
from nvembed.recipe import Recipe


@dataclass(frozen=True)
class Setting:
    """A recipe, a dataset folder, a folder for results, and the adapter that all start from."""

    recipe: Recipe
    dataset: Path
    folder: Path
    init: Path


@contextlib.contextmanager
def one_thread():
    """Tiny models compute faster on one thread, and much faster so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def moved_adapter(made: Recipe, folder: Path, *, seed: int = 5) -> Path:
    """An adapter whose every tensor is away from its start.

    Half of LoRA's tensors begin as zero, and then the other half has no gradient: two zeros would be compared.
    """
    model = NVEmbedModel.from_section(made.model, trainable=True)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    model.save_trainable(folder)
    return folder


def case(setting: Setting, name: str, **options) -> dict:
    """A case for the rank program: a first step of stage 1, gradients not clipped, no dropout unless it says so."""
    model = setting.recipe.model.model_dump(mode="json")
    model["lora"]["dropout"] = options.pop("lora_dropout", 0.0)
    stage = setting.recipe.stage1.model_dump(mode="json") | options.pop("stage", {})
    fixed = {"name": name, "model": model, "stage": stage, "dataset": str(setting.dataset), "init": str(setting.init)}
    return {**fixed, "steps": 1, "zero": 0, "budget": 100_000, **options}


def run_cases(setting: Setting, world: int, cases: list[dict]) -> dict[str, tuple[dict, dict]]:
    """Run all cases on so many ranks: name → exported state and what its steps told."""
    out = setting.folder / f"world-{world}-{cases[0]['name']}"
    out.mkdir()
    (out / "cases.json").write_text(json.dumps(cases))
    torchrun(world, str(HERE / "rank_program.py"), str(out / "cases.json"), str(out))
    names = [one["name"] for one in cases]
    return {n: (load_file(out / f"{n}.safetensors"), json.loads((out / f"{n}.json").read_text())) for n in names}


def gradients(state: dict) -> dict[str, torch.Tensor]:
    """Gradients of a first step: Adam's first moment is (1 − 0.9) times the gradient then."""
    return {name.removeprefix("exp_avg/"): value / 0.1 for name, value in state.items() if name.startswith("exp_avg/")}


def assert_same_gradients(found: dict, expected: dict) -> None:
    """Equal up to rounding of float32, measured against each tensor's greatest entry. No tensor may be all zero."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        greatest = float(gradient.abs().max())
        assert greatest > 0, f"{name} has no gradient: nothing is compared"
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=2e-5 * greatest, msg=lambda m: f"{name}: {m}")  # noqa: B023


def distance(found: dict, expected: dict) -> float:
    """How far a gradient lies from another, all tensors as one vector, as a share of its length."""
    off = sum(float((found[name] - gradient).double().square().sum()) for name, gradient in expected.items())
    return (off / sum(float(gradient.double().square().sum()) for gradient in expected.values())) ** 0.5
