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
    eval_sets: Optional[Input[Dataset]] = None,
):
    """Train adapter and latent block for one stage, resuming from the last checkpoint of the same work.

    Args:
        name: `stage1` or `stage2`.
        stage: That section of the recipe as JSON.
        model: The recipe's `model` section as JSON.
        resources: The recipe's `resources` section as JSON.
        dataset: What `mine_hard_negatives` wrote.
        adapter: The trained tensors, safetensors; base weights are named by digest.
        report: Curves of loss, accuracy, similarity, speed and memory.
        init: The adapter of the stage before; none: start from the backbone.
        eval_sets: What `prepare_data` held out; its dev split is looked at while training, if the stage wants that.
    """
    from nvembed.steps import train as step

    given = {"init": init.path if init else None, "eval_sets": eval_sets.path if eval_sets else None}
    step(name, stage, model, resources, dataset.path, adapter.path, report=report.path, **given)
