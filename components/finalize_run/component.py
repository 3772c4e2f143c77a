"""KFP component: the exit handler."""

from kfp import dsl
from kfp.dsl import PipelineTaskFinalStatus

from components.common import BASE_IMAGE


@dsl.component(base_image=BASE_IMAGE, install_kfp_package=False)
def finalize_run(status: PipelineTaskFinalStatus):
    """Close the run in MLflow, on success and on failure.

    Args:
        status: How the pipeline ended; KFP fills it in.
    """
    from nvembed.steps import finalize_run as step

    step(status.state, status.error_message or "")
