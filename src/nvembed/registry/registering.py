"""A model folder becomes a version in MLflow's registry, with its evidence beside it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from nvembed.core.artifacts import Manifest, read_manifest
from nvembed.core.errors import UserError
from nvembed.registry.champions import keep_evaluation, kept_key
from nvembed.registry.own_code import ENTRY, code_to_log
from nvembed.registry.versions import ADAPTER_TAG, FOLDER_TAG, MODEL_TAG, Version, find_version
from nvembed.tracking.client import RUN_TAG, client, experiment_id
from nvembed.tracking.courier import log_folder

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from mlflow.tracking import MlflowClient

    from nvembed.recipe import Registration

logger = logging.getLogger(__name__)
_NEEDS = ("torch", "transformers", "peft", "safetensors", "numpy", "pandas")


def register(
    registration: Registration,
    folder: Path,
    comparison: Path,
    evaluation: Path,
    tags: Mapping[str, str] | None = None,
) -> Version:
    """Register an exported model folder; the version that holds this very model already is handed back as it is.

    The version's artifact is an MLflow pyfunc written as code: safetensors and source, no pickle. Beside it, in the
    run that registered it, lie the comparison and the evaluation that later challengers are compared with.

    Args:
        folder: what `export` wrote. comparison: a comparison folder. evaluation: the model's own evaluation folder.
        tags: lineage, kept on the version.

    Raises:
        UserError: no tracking server, or a folder of another kind or that was changed since it was written.
    """
    manifest = read_manifest(folder, kind="model", verify=True)
    digest = str(manifest.extra["model_digest"])
    found = find_version(registration.name, digest)
    if found is not None:
        return found
    mlflow = client()
    run = _run(mlflow)
    log_folder(mlflow, run, comparison, "comparison")
    uri, model_id = _log_model(mlflow, run, registration.name, folder, manifest)
    _ensure_registered(mlflow, registration.name)
    everything = {
        MODEL_TAG: digest,
        ADAPTER_TAG: manifest.inputs["adapter"],
        FOLDER_TAG: manifest.content,
        **_from_environment(),
        **(tags or {}),
    }
    table = comparison / "table.md"
    made = mlflow.create_model_version(
        registration.name,
        source=uri,
        run_id=run,
        model_id=model_id,
        tags={key: value[:5000] for key, value in everything.items() if value},
        description=table.read_text(encoding="utf-8") if table.is_file() else None,
    )
    version = find_version(registration.name, digest)
    if version is None or version.version != str(made.version):
        raise RuntimeError(f"MLflow does not show version {made.version} of {registration.name} that was just made")
    keep_evaluation(version, kept_key(evaluation), evaluation)
    version = find_version(registration.name, digest)
    assert version is not None
    return version


def own_evaluation(results: Sequence[Path], adapter: str) -> Path:
    """The evaluation folder that measured an adapter, given by content digest. Raises UserError if there is none."""
    for folder in results:
        if read_manifest(folder, kind="evaluation").inputs.get("adapter") == adapter:
            return folder
    raise UserError(
        "register_model: none of the evaluations measured this adapter; evaluate it before it is registered"
    )


def _run(mlflow: MlflowClient) -> str:
    """The run of this task; registering by hand makes one."""
    if current := os.environ.get("NVEMBED_TRACKING_RUN_ID"):
        return current
    tags = {RUN_TAG: os.environ.get("NVEMBED_RUN_ID", ""), "mlflow.source.name": "nvembed"}
    run = mlflow.create_run(experiment_id(mlflow), run_name="register", tags={k: v for k, v in tags.items() if v})
    mlflow.set_terminated(run.info.run_id)
    return run.info.run_id


def _log_model(mlflow: MlflowClient, run: str, name: str, folder: Path, manifest: Manifest) -> tuple[str, str]:
    """Upload the model under a run; its `models:/` URI and id."""
    import mlflow as package
    from mlflow.models import Model

    with _patience(), code_to_log() as code:
        logged = mlflow.create_logged_model(
            mlflow.get_run(run).info.experiment_id, name=name, source_run_id=run, model_type="text-embedding"
        )
        info = Model.log(
            artifact_path=None,
            name=name,
            flavor=package.pyfunc,
            run_id=run,
            model_id=logged.model_id,
            python_model=str(code / ENTRY),
            artifacts={"model": str(folder.resolve())},
            code_paths=[str(code)],
            signature=_signature(int(manifest.extra["dim"])),
            input_example=(["Open a file and return its contents."], {"instruction": "Retrieve documentation"}),
            pip_requirements=requirements(),
            metadata={"model_digest": manifest.extra["model_digest"], "task": "llm/v1/embeddings"},
        )
    return info.model_uri, logged.model_id


def _signature(dim: int) -> ModelSignature:
    """Texts in, vectors out. The last three parameters are fields of OpenAI's embeddings API, see `embedder`."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    params = {"instruction": DataType.string, "max_length": DataType.long, "dimensions": DataType.long}
    params |= dict.fromkeys(("model", "encoding_format", "user"), DataType.string)
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string)]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, dim))]),
        params=ParamSchema(
            [ParamSpec(name, kind, "" if kind is DataType.string else 0) for name, kind in params.items()]
        ),
    )


def requirements() -> list[str]:
    """Exact public versions of what the model needs to run; a local build's suffix (`+cpu`) is no public version."""
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in _NEEDS]


def _ensure_registered(mlflow: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        mlflow.create_registered_model(name, description="Text embedding models trained by nvembed")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _from_environment() -> dict[str, str]:
    from nvembed.core.digests import code_digest
    from nvembed.tracking.store import pipeline_run_id

    return {"nvembed.code": code_digest(), RUN_TAG: pipeline_run_id() or ""}


@contextmanager
def _patience() -> Iterator[None]:
    """Weights take longer to arrive than metrics: the short timeouts of tracking would cut their upload off."""
    before = os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT")
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "600"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("MLFLOW_HTTP_REQUEST_TIMEOUT", None)
        else:
            os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = before
