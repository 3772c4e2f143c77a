"""KFP component: the trained model, exported, registered and, if it is better, made champion."""

from typing import List

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components.common import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def register_model(
    registration: str,
    model: str,
    adapter: Input[Model],
    comparison: Input[Artifact],
    results: Input[List[Dataset]],
    dataset: Input[Dataset],
    mined: Input[Dataset],
    registered: Output[Artifact],
):
    """Export to a Sentence Transformers folder with a model card and register it in MLflow.

    Args:
        registration: The recipe's `registration` section as JSON.
        model: The recipe's `model` section as JSON.
        adapter: The last stage's adapter.
        comparison: What `compare_models` wrote, with the verdict.
        results: What each `evaluate` wrote; the model's own is kept beside the version, to judge its successors.
        dataset: What `prepare_data` wrote: sources and licences for the model card.
        mined: What `mine_hard_negatives` wrote: likewise.
        registered: Name, version, aliases and folder, JSON.
    """
    from nvembed.steps import register_model as step

    made = {"prepare_data": dataset.path, "mine_hard_negatives": mined.path}
    folders = [result.path for result in results]
    step(registration, model, adapter.path, comparison.path, folders, made, registered.path)
