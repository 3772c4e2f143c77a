"""KFP component: one share of the passages, embedded and searched."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from components.common import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def mine_shard(mining: str, resources: str, shard: str, dataset: Input[Dataset], neighbours: Output[Dataset]):
    """Embed a share of the passages and find in it what is nearest to each query. Goes on where it was killed.

    One shard alone has nothing to do: `mine_hard_negatives` does it all.

    Args:
        mining: The recipe's `mining` section as JSON.
        resources: The recipe's `resources` section as JSON.
        shard: Its number and how many there are, as `resolve_recipe` planned them.
        dataset: What `prepare_data` wrote.
        neighbours: The nearest passages of each query and their scores, for `mine_hard_negatives` to merge.
    """
    from nvembed.steps import mine_shard as step

    step(mining, resources, shard, dataset.path, neighbours.path)
