"""The machines a recipe wants: of one task's pod, and of a training stage that takes several nodes."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from nvembed.recipe.base import Positive, Section

Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|[KMGTP]i?)?$")]
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)]
_SETTINGS = re.compile(r"(NCCL|TORCH_NCCL|GLOO|UCX|FI|CUDA|PYTORCH)_[A-Z0-9_]+")


class Toleration(Section):
    """A taint that the job's pods bear, in Kubernetes' own words."""

    key: str | None = Field(None, description="none, with operator Exists: every taint")
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(None, description="none: all effects")

    @model_validator(mode="after")
    def _says_what_it_bears(self) -> Toleration:
        if self.operator == "Equal" and (self.key is None or self.value is None):
            raise ValueError("operator Equal needs key and value")
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("operator Exists takes no value; use Equal")
        return self


class TrainJob(Section):
    """What `launcher: trainjob` asks of Kubeflow Trainer. Image, volumes and config maps are the task's own."""

    runtime: ObjectName = Field("torch-distributed", description="a training runtime with mlPolicy.torch")
    runtime_kind: Literal["ClusterTrainingRuntime", "TrainingRuntime"] = "ClusterTrainingRuntime"
    queue: ObjectName | None = Field(None, description="Kueue's LocalQueue; none: the job starts at once")
    priority_class: ObjectName | None = Field(
        None, description="Kueue's WorkloadPriorityClass; a pod's own priority class belongs into the runtime"
    )
    tolerations: list[Toleration] = Field([], description="taints that the nodes may have")
    node_selector: dict[str, str] = Field({}, description="labels that the nodes must have")
    shm: Quantity = Field("16Gi", description="size of /dev/shm, which counts as memory")
    deadline_hours: Annotated[float, Field(gt=0)] | None = Field(
        168, description="the job is ended after so many hours of running, waiting not counted; none: never"
    )
    start_minutes: Annotated[float, Field(gt=0)] | None = Field(
        None, description="give up if pods have no node so long after the queue let the job go; none: wait on"
    )
    env: dict[str, str] = Field({}, description="NCCL_SOCKET_IFNAME and the like: settings of the network and of CUDA")

    @field_validator("env")
    @classmethod
    def _settings_alone(cls, env: dict[str, str]) -> dict[str, str]:
        for name in env:
            if not _SETTINGS.fullmatch(name):
                raise ValueError(
                    f"env.{name}: takes NCCL_…, TORCH_NCCL_…, GLOO_…, UCX_…, FI_…, CUDA_… and PYTORCH_… alone; other "
                    "settings have keys of their own, and a secret comes by the pipeline's secret parameters"
                )
        return env

    @model_validator(mode="after")
    def _priority_is_the_queues(self) -> TrainJob:
        if self.priority_class is not None and self.queue is None:
            raise ValueError("priority_class is of a queue's workloads, but queue is not set; name one")
        return self


class Compiled(Section):
    """What Kubeflow fixes when a pipeline is compiled: another value needs `nvembed compile --recipe`."""

    shm: Quantity = Field("16Gi", description="size of /dev/shm of a task's pod, which counts as memory")
    retries: Annotated[int, Field(ge=0, le=20)] = Field(2, description="of a task whose pod fails, is evicted or lost")
    train_hours: Positive = Field(336, description="a training task is ended after so many hours, waiting counted")


class Resources(Section):
    """The machine a recipe wants."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    launcher: Literal["pod", "trainjob"] = Field(
        "pod", description="where training runs: in the task's own pod, or on nodes that Kubeflow Trainer brings up"
    )
    processes: Positive = Field(1, description="ranks on a node: GPUs, or processes on a CPU")
    nodes: Positive = 1
    threads: Positive | None = Field(None, description="CPU threads of a process; None: all cores, shared by the ranks")
    cpu: Quantity = Field("4", description="cores of a task's pod, and of a node of a TrainJob")
    memory: Quantity = "16Gi"
    peak_tflops: Annotated[float, Field(gt=0)] | None = Field(
        None, description="what a device can do, for the share of peak; none: a short product of matrices tells"
    )
    accelerator: str = "nvidia.com/gpu"
    accelerators: Annotated[int, Field(ge=0)] = Field(0, description="of a node")
    tolerations: list[Toleration] = Field([], description="taints that the tasks' nodes may have")
    node_selector: dict[str, str] = Field({}, description="labels that the tasks' nodes must have")
    prepare_shards: Positive = Field(1, description="tasks among which the sources of a mix are divided")
    mine_shards: Positive = Field(1, description="tasks among which the passages to mine are divided")
    compiled: Compiled = Compiled()
    trainjob: TrainJob = TrainJob()

    @model_validator(mode="after")
    def _ranks_have_devices(self) -> Resources:
        if self.launcher == "trainjob" and self.device == "cuda" and self.processes > self.accelerators:
            raise ValueError(
                f"processes is {self.processes}, above accelerators ({self.accelerators}): a rank takes one on each "
                "node; lower processes or raise accelerators"
            )
        return self

    @model_validator(mode="after")
    def _the_task_outlives_its_job(self) -> Resources:
        deadline = self.trainjob.deadline_hours
        if self.launcher == "trainjob" and deadline is not None and deadline > self.compiled.train_hours:
            raise ValueError(
                f"trainjob.deadline_hours is {deadline:g}, but the task that waits for the job is ended after "
                f"{self.compiled.train_hours} hours; lower it, or raise compiled.train_hours"
            )
        return self
