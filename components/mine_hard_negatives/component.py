"""KFP component: a teacher model finds hard negatives."""

from typing import List

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Output

from components.common import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def mine_hard_negatives(
    mining: str,
    resources: str,
    dataset: Input[Dataset],
    shards: Input[List[Dataset]],
    mined: Output[Dataset],
    report: Output[HTML],
):
    """Of the passages nearest to each query, keep those that are no likely positives; merge what shards found.

    Args:
        mining: The recipe's `mining` section as JSON.
        resources: The recipe's `resources` section as JSON.
        dataset: What `prepare_data` wrote.
        shards: What every `mine_shard` wrote.
        mined: The same with hard negatives and their scores.
        report: Score histograms, how many candidates each rule dropped, negatives and suspects worth a look.
    """
    from nvembed.steps import mine_hard_negatives as step

    step(mining, resources, dataset.path, mined.path, report.path, [shard.path for shard in shards])
