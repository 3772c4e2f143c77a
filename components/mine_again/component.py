"""KFP component: the model that stage 1 made finds hard negatives for stage 2."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Model, Output

from components.common import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def mine_again(
    mining: str,
    model: str,
    resources: str,
    dataset: Input[Dataset],
    mined: Input[Dataset],
    stage1: Input[Model],
    again: Output[Dataset],
    report: Output[HTML],
):
    """Mine once more with stage 1's own model if `mining.again_with_stage1` says so; else pass on what was mined.

    Args:
        mining: The recipe's `mining` section as JSON.
        model: The recipe's `model` section as JSON.
        resources: The recipe's `resources` section as JSON.
        dataset: What `prepare_data` wrote.
        mined: What `mine_hard_negatives` wrote.
        stage1: Stage 1's adapter.
        again: The dataset with the hard negatives for stage 2.
        report: As of `mine_hard_negatives`.
    """
    from nvembed.steps import mine_again as step

    step(mining, model, resources, dataset.path, mined.path, stage1.path, again.path, report.path)
