"""KFP component: all candidates side by side, with intervals and a verdict."""

from typing import List

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Markdown, Model, Output

from components.common import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def compare_models(
    evaluation: str,
    registration: str,
    resources: str,
    eval_sets: Input[Dataset],
    results: Input[List[Dataset]],
    dataset: Input[Dataset],
    mined: Input[Dataset],
    stage1: Input[Model],
    stage2: Input[Model],
    comparison: Output[Artifact],
    table: Output[Markdown],
    report: Output[HTML],
):
    """Compare the trained stages with the untrained backbone, BM25 and the present champion.

    Args:
        evaluation: The recipe's `evaluation` section as JSON.
        registration: The recipe's `registration` section as JSON: what the verdict asks for.
        resources: The recipe's `resources` section as JSON.
        eval_sets: What `prepare_data` held out.
        results: What each `evaluate` wrote.
        dataset: What `prepare_data` wrote; its headline numbers go to the run's page.
        mined: What `mine_hard_negatives` wrote; likewise.
        stage1: Stage 1's adapter; likewise.
        stage2: Stage 2's adapter; likewise.
        comparison: Table, picture, report and verdict.
        table: The table, to read in the pipeline's page.
        report: The whole report, to read in the pipeline's page.
    """
    import shutil

    from nvembed.steps import compare_models as step

    made = {
        "prepare_data": dataset.path,
        "mine_hard_negatives": mined.path,
        "train_stage1": stage1.path,
        "train_stage2": stage2.path,
    }
    folders = [result.path for result in results]
    step(evaluation, registration, resources, eval_sets.path, folders, made, comparison.path, report.path)
    shutil.copyfile(comparison.path + "/table.md", table.path)
