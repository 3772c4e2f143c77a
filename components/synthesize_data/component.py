"""KFP component: language models write examples, where the recipe asks for it."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Output

from components.common import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def synthesize_data(
    synthesis: str,
    dataset: Output[Dataset],
    eval_sets: Output[Dataset],
    report: Output[HTML],
):
    """Write queries for documents, and examples of tasks, by language models; nothing where synthesis is off.

    Args:
        synthesis: The recipe's `synthesis` section as JSON, with the documents' digest in it. It names no key.
        dataset: Synthetic training examples and the passages to mine, Parquet; empty where synthesis is off.
        eval_sets: Synthetic dev and test sets; empty where synthesis is off.
        report: Accepted and refused with the reason, examples, kinds, lengths, cost.
    """
    from nvembed.steps import synthesize_data as step

    step(synthesis, dataset.path, eval_sets.path, report.path)
