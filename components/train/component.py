"""KFP component: one training stage under DeepSpeed."""

from typing import Optional

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Model, Output

from components.common import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def train(
    name: str,
    stage: str,
    model: str,
    resources: str,
    dataset: Input[Dataset],
    adapter: Output[Model],
    report: Output[HTML],
    init: Optional[Input[Model]] = None,
):
    """Train adapter and latent block for one stage, resuming from the last checkpoint of the same work.

    Args:
        name: `stage1` or `stage2`.
        stage: That section of the recipe as JSON.
        model: The recipe's `model` section as JSON.
        resources: The recipe's `resources` section as JSON.
        dataset: What `mine_hard_negatives` wrote.
        adapter: The trained tensors, safetensors; base weights are named by digest.
        report: Loss, accuracy, similarity and learning-rate curves.
        init: The adapter of the stage before; none: start from the backbone.
    """
    from nvembed.steps import train as step

    step(name, stage, model, resources, dataset.path, adapter.path, init.path if init else None, report.path)
