"""Run one component through KFP's own local runner, with folders as its input artifacts."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kfp import dsl, local


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables for the tasks that are started inside."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def run_component(
    component: Any,
    root: Path,
    *,
    artifacts: Mapping[str, tuple[type[dsl.Artifact], Path]] | None = None,
    lists: Mapping[str, tuple[type[dsl.Artifact], list[Path]]] | None = None,
    **parameters: Any,
) -> Path:
    """The folder in which KFP put the component's outputs.

    Artifacts come by importer, as they would from a task before; a list of them by a loop over importers. Raises
    RuntimeError when the task fails.
    """
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root / "runs"), raise_on_error=True)

    @dsl.pipeline(name="collect")
    def collect(uris: list) -> list[dsl.Dataset]:
        with dsl.ParallelFor(items=uris) as uri:
            found = dsl.importer(artifact_uri=uri, artifact_class=dsl.Dataset, reimport=True)
        return dsl.Collected(found.output)

    @dsl.pipeline(name="one-component")
    def one() -> None:
        inputs = {
            name: dsl.importer(artifact_uri=str(path), artifact_class=kind, reimport=True).output
            for name, (kind, path) in (artifacts or {}).items()
        }
        inputs |= {
            name: collect(uris=[str(path) for path in paths]).output for name, (_, paths) in (lists or {}).items()
        }
        component(**parameters, **inputs)

    one()
    (run,) = (root / "runs").iterdir()
    return run / component.name


def output_parameters(task_folder: Path) -> dict[str, Any]:
    """The parameters a finished task handed on."""
    return json.loads((task_folder / "executor_output.json").read_text(encoding="utf-8"))["parameterValues"]
