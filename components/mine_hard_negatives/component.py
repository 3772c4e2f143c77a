"""KFP component: a teacher model finds hard negatives."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Output

from components.common import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def mine_hard_negatives(
    mining: str, resources: str, dataset: Input[Dataset], mined: Output[Dataset], report: Output[HTML]
):
    """Embed queries and corpus with the teacher, search exactly, and keep the nearest that are no likely positives.

    Args:
        mining: The recipe's `mining` section as JSON.
        resources: The recipe's `resources` section as JSON.
        dataset: What `prepare_data` wrote.
        mined: The same with hard negatives and their scores.
        report: Score histograms, and how many candidates each rule dropped.
    """
    from nvembed.steps import mine_hard_negatives as step

    step(mining, resources, dataset.path, mined.path, report.path)
