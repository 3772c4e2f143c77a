"""KFP component: one candidate on its share of the tasks."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from components.common import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def evaluate(
    candidate: str,
    evaluation: str,
    model: str,
    resources: str,
    eval_sets: Input[Dataset],
    stage1: Input[Model],
    stage2: Input[Model],
    results: Output[Dataset],
):
    """Run held-out sets and benchmarks through mteb for one candidate, in one process.

    Finished tasks are kept in the state, so a retry does only what is missing. A task that fails is written down, and
    the others go on.

    Args:
        candidate: `bm25`, `base` (the untrained backbone), `stage1` or `stage2`; with its share behind it where its
            tasks are divided: `stage2 1/3`.
        evaluation: The recipe's `evaluation` section as JSON.
        model: The recipe's `model` section as JSON.
        resources: The recipe's `resources` section as JSON.
        eval_sets: What `prepare_data` held out.
        stage1: Stage 1's adapter.
        stage2: Stage 2's adapter.
        results: Scores, and a score for each query or document for the paired statistics.
    """
    from nvembed.steps import evaluate as step

    adapters = {"stage1": stage1.path, "stage2": stage2.path}
    step(candidate, evaluation, model, resources, eval_sets.path, adapters, results.path)
