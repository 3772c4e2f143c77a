"""Where the pipeline's tasks run, as whom, on what, and how often they are tried."""

from kfp import kubernetes
from kfp.dsl import PipelineTask

IMAGE = "nvembed:0.1.0"
STATE_MOUNT = "/state"
MODELS_MOUNT = "/models"
SECRETS_MOUNT = "/secrets"
USER = 1000
HOUR = 3600
RETRIES = {"num_retries": 2, "backoff_duration": "60s", "backoff_factor": 2.0, "backoff_max_duration": "600s"}
"""For pods that are evicted and nodes that are lost: each task goes on where it was."""
TRACKING = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
STORES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "HF_TOKEN",
)


def placed(
    task: PipelineTask,
    image: str,
    state_claim: str,
    config_map: str,
    tracking_secret: str,
    *,
    again: bool = False,
    hours: int = 24,
) -> PipelineTask:
    """Where and as whom a task runs, and for how long at most.

    `again`: it must act in every run, so nothing of it comes from a cache.
    """
    task.set_container_image(image)
    task.set_caching_options(not again)
    task.set_retry(**RETRIES)
    kubernetes.set_timeout(task, seconds=hours * HOUR)
    # The run's identity comes by environment: as a parameter it would make every task a cache miss.
    kubernetes.use_field_path_as_env(task, env_name="KFP_RUN_ID", field_path="metadata.labels['pipeline/runid']")
    kubernetes.use_config_map_as_env(
        task,
        config_map_name=config_map,
        config_map_key_to_env={"MLFLOW_TRACKING_URI": "MLFLOW_TRACKING_URI", "NVEMBED_STATE": "NVEMBED_STATE"},
    )
    _secret_env(task, tracking_secret, TRACKING)
    kubernetes.mount_pvc(task, pvc_name=state_claim, mount_path=STATE_MOUNT)
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    return task


def reading(task: PipelineTask, config_map: str, models_claim: str, stores_secret: str) -> PipelineTask:
    """What a task needs that reads models or data: the hub's cache, and the keys of object stores and of the hub."""
    kubernetes.mount_pvc(task, pvc_name=models_claim, mount_path=MODELS_MOUNT)
    # From the config map, as a constant of the task it would hold on a laptop, too.
    cache = {"HF_HOME": "HF_HOME"}
    kubernetes.use_config_map_as_env(task, config_map_name=config_map, config_map_key_to_env=cache, optional=True)
    return _secret_env(task, stores_secret, STORES)


def _secret_env(task: PipelineTask, secret: str, keys: tuple[str, ...]) -> PipelineTask:
    """A secret's keys as variables of the same names. It may be missing, and any of its keys."""
    return kubernetes.use_secret_as_env(task, secret, {key: key for key in keys}, optional=True)


def in_room(task: PipelineTask, cpu: str, memory: str) -> PipelineTask:
    """Cores and memory. Requests are the limits: nothing is promised twice."""
    return task.set_cpu_request(cpu).set_cpu_limit(cpu).set_memory_request(memory).set_memory_limit(memory)


def on_machine(
    task: PipelineTask,
    cpu: str,
    memory: str,
    accelerator: str,
    accelerators: str,
    tolerations: list,
    node_selector: dict,
) -> PipelineTask:
    """What a task's pod gets, as the recipe's `resources` say."""
    in_room(task, cpu, memory)
    task.set_accelerator_type(accelerator).set_accelerator_limit(accelerators)
    kubernetes.add_toleration_json(task, tolerations)
    kubernetes.add_node_selector_json(task, node_selector)
    # torch and NCCL hand tensors from process to process through shared memory; a pod's own is 64 MiB
    kubernetes.empty_dir_mount(task, volume_name="shm", mount_path="/dev/shm", medium="Memory", size_limit="16Gi")
    return task
