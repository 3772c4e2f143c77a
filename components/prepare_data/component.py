"""KFP component: sources become training examples and held-out sets."""

from typing import List

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Output

from components.common import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def prepare_data(
    data: str,
    shards: Input[List[Dataset]],
    synthetic: Input[Dataset],
    synthetic_eval_sets: Input[Dataset],
    dataset: Output[Dataset],
    eval_sets: Output[Dataset],
    report: Output[HTML],
):
    """Read, clean, split and label the data; of a mix, merge its shards.

    Args:
        data: The recipe's `data` section as JSON, with the source's digest in it.
        shards: What every `prepare_shard` wrote.
        synthetic: What `synthesize_data` wrote to train on; it joins the rest, or is handed on where it is all.
        synthetic_eval_sets: What it held out.
        dataset: Training examples and the corpus to mine, Parquet.
        eval_sets: Dev and test sets, which share no text with the training examples.
        report: Counts, lengths, duplicates, examples, licences.
    """
    from nvembed.steps import prepare_data as step

    folders = [shard.path for shard in shards]
    step(data, dataset.path, eval_sets.path, report.path, folders, synthetic.path, synthetic_eval_sets.path)
