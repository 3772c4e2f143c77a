"""Tasks that hand over: the registered model, and the closing of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nvembed.core.artifacts import write_file
from nvembed.core.digests import canonical_json
from nvembed.recipe import Model, Registration, section_from_json
from nvembed.steps.locks import registry_lock
from nvembed.steps.task import task


def register_model(
    registration: str,
    model: str,
    adapter: str,
    comparison: str,
    results: Sequence[str],
    made: Mapping[str, str],
    registered: str,
) -> None:
    """Export the trained model, register it as challenger and, if the verdict allows, make it champion.

    Idempotent: the same trained tensors are the same version. `registered` receives a JSON file that says name,
    version, aliases and folder.
    """
    from nvembed import registry, tracking
    from nvembed.evaluation.shards import whole_folders

    section = section_from_json(Registration, registration)
    with task("register_model", section.model_dump(mode="json")):
        outcome = registry.publish(
            section,
            section_from_json(Model, model),
            Path(adapter),
            Path(comparison),
            whole_folders([Path(folder) for folder in results]),
            {name: Path(folder) for name, folder in made.items()},
            run_id=tracking.pipeline_run_id() or "",
            lock=registry_lock,
        )
        write_file(registered, canonical_json(outcome))


def finalize_run(state: str, error: str = "") -> None:
    """Close the run's parent in MLflow, whatever became of it."""
    from nvembed import tracking

    with task("finalize_run"):
        tracking.close_parent(tracking.pipeline_run_id(), state, error=error)
