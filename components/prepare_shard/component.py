"""KFP component: one shard of a mix, ready to be merged."""

from kfp import dsl
from kfp.dsl import Dataset, Output

from components.common import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def prepare_shard(data: str, shard: str, blocks: Output[Dataset]):
    """Read some sources of a mix, or slices of them; label them and drop evaluation texts. Goes on where it was killed.

    Data that is no mix has one shard without sources, and this task has nothing to do.

    Args:
        data: The recipe's `data` section as JSON, with the source's digest in it.
        shard: Its slices, as `resolve_recipe` planned them.
        blocks: Finished examples of the shard's slices, Parquet.
    """
    from nvembed.steps import prepare_shard as step

    step(data, shard, blocks.path)
