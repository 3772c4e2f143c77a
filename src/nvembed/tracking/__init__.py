"""MLflow runs: one parent for a pipeline run, one child for each task, and a spool that outlives a dead server.

`MLFLOW_TRACKING_URI` says where; without it nothing is tracked. Importing this package does not import MLflow.
"""

from nvembed.tracking.gpus import VisibleGpus
from nvembed.tracking.headlines import log_headlines
from nvembed.tracking.parent import close_parent, find_parent, open_parent
from nvembed.tracking.store import check_server, default_uri, pipeline_run_id, shown, tracking_uri
from nvembed.tracking.sync import Sent, send_spools
from nvembed.tracking.task import TaskRun, task_run

__all__ = [
    "Sent",
    "TaskRun",
    "VisibleGpus",
    "check_server",
    "close_parent",
    "default_uri",
    "find_parent",
    "log_headlines",
    "open_parent",
    "pipeline_run_id",
    "send_spools",
    "shown",
    "task_run",
    "tracking_uri",
]
