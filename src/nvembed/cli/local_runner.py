"""The process in which KFP's own local runner executes the compiled pipeline.

It is a process of its own so that KFP's long log, and all that tasks print, goes to a file as a whole; so that the
screen is never disturbed; and so that an interrupt ends it with everything it started. It adds nothing to KFP's
orchestration. It only reports: which task starts, is served from the cache, ends or fails goes to the progress file.
"""

from __future__ import annotations

import copy
import json
import logging
import re
import sys
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nvembed.core import lifeline
from nvembed.core.artifacts import write_file
from nvembed.core.progress import emit

_COLOURS = re.compile(r"\x1b\[\d+m")
_EXECUTES = re.compile(r"^Executing task ")
_CACHE_HIT = re.compile(r"^Task .+ cache hit \(")
_TELLING = ("candidate", "name")
_here = threading.local()


@dataclass
class Job:
    """What the runner is told, as JSON in a file: the compiled YAML, its parameters, folders of this run."""

    pipeline: str
    parameters: dict[str, Any]
    pipeline_root: str
    cache_root: str
    workspace: str
    result: str
    caching: bool = True


@dataclass
class Result:
    """What the runner tells, as JSON in a file: each task's outputs (paths of artifacts, values of parameters)."""

    succeeded: bool
    message: str = ""
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)


def main(job_file: str) -> int:
    """Execute the job described in `job_file`; 0 if the pipeline succeeded, 1 if not."""
    lifeline.tie_to_parent()
    job = Job(**json.loads(Path(job_file).read_text(encoding="utf-8")))
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s - %(levelname)s - %(message)s")
    logging.getLogger().addFilter(_read_log)
    result = Result(succeeded=False)
    try:
        _execute(job, result)
        result.succeeded = True
    except Exception as error:
        result.message = _COLOURS.sub("", str(error))
        logging.error("%s", result.message, exc_info="finished with status" not in result.message)
    write_file(job.result, json.dumps(asdict(result), indent=1))
    return 0 if result.succeeded else 1


def _execute(job: Job, result: Result) -> None:
    from kfp import components, local

    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=job.pipeline_root,
        workspace_root=job.workspace,
        enable_caching=job.caching,
        cache_root=job.cache_root,
    )
    _observe_tasks(result)
    pipeline = components.load_component_from_file(job.pipeline)
    known = set(pipeline.pipeline_spec.root.input_definitions.parameters)
    pipeline(**{name: value for name, value in job.parameters.items() if name in known})


def _observe_tasks(result: Result) -> None:
    """Report each task that KFP executes or serves from its cache, and note what it put out."""
    from kfp.local import status
    from kfp.local.orchestrator import task_executor

    execute = task_executor.execute_single_task

    def observed(**call: Any) -> Any:
        label = _label(call["task_name"], call["task_spec"], call["io_store"])
        _here.label, _here.cached = label, False
        try:
            outputs, task_status = execute(**_without_retries(call))
        except BaseException as error:
            _emit("failed", label, text=str(error))
            raise
        if task_status == status.Status.SUCCESS:
            result.outputs[label] = {name: _plain(value) for name, value in outputs.items()}
            _emit("cached" if _here.cached else "finished", label)
        else:
            _emit("failed", label)
        return outputs, task_status

    task_executor.execute_single_task = observed


def _emit(event: str, label: str, **fields: Any) -> None:
    emit(event, **{"task": label, "runner": True, **fields})


def _label(name: str, spec: Any, store: Any) -> str:
    """The name the task gives itself (`steps.task`): `prepare_data`, `train_stage1`, `evaluate_bm25`.

    KFP numbers repeated tasks (`train-2`) and calls all of a loop's the same; what tells them apart is an argument.
    """
    from kfp.local.orchestrator.orchestrator_utils import OrchestratorUtils

    label = re.sub(r"-\d+$", "", name).replace("-", "_")
    arguments = OrchestratorUtils.make_task_arguments(task_inputs_spec=spec.inputs, io_store=store)
    told = next((arguments[key] for key in _TELLING if isinstance(arguments.get(key), str)), None)
    if told and "/" in told:  # a share of a candidate's tasks, `stage2 1/3`, as `evaluation.plan.task_name` calls it
        told = told.replace(" ", "_").replace("/", "of")
    if isinstance(shard := arguments.get("shard"), str):
        part = json.loads(shard)  # of a mix: {"number", "slices"}; of the passages to mine: {"number", "of"}
        told = str(part["number"]) if part.get("slices") or part.get("of", 1) > 1 else None
    return f"{label}_{told}" if told else label


def _without_retries(call: dict[str, Any]) -> dict[str, Any]:
    """KFP's call, to be tried once. Retries are for evictions: on a laptop they would only repeat a mistake."""
    task_spec = copy.deepcopy(call["task_spec"])
    task_spec.ClearField("retry_policy")
    return {**call, "task_spec": task_spec}


def _read_log(record: logging.LogRecord) -> bool:
    # Only KFP's log tells whether a task is executed or served from the cache. A filter on the logger sees the record
    # in the task's own thread, whatever handlers KFP has put in place at that moment.
    message, label = record.getMessage(), getattr(_here, "label", None)
    if label is not None and _EXECUTES.match(message):
        _emit("start", label)
    elif _CACHE_HIT.match(message):
        _here.cached = True
    return True


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return getattr(value, "path", value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
