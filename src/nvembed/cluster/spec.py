"""Where the compiled pipeline lies: shipped in the wheel, or in the repository this package is installed from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvembed.core.errors import UserError

COMPILED = "nvembed.yaml"


@dataclass(frozen=True)
class Compiled:
    """A compiled pipeline: its spec and what it says to Kubernetes, as trees."""

    spec: dict[str, Any]
    platform: dict[str, Any]

    @property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """The pipeline's parameters by name."""
        return dict(self.spec["root"]["inputDefinitions"]["parameters"])

    @property
    def pods(self) -> dict[str, dict[str, Any]]:
        """What each executor's pods get, by executor."""
        return dict(self.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"])

    @property
    def tasks(self) -> list[dict[str, Any]]:
        """The tasks of the pipeline and of all pipelines within it."""
        dags = [self.spec["root"], *self.spec["components"].values()]
        return [task for dag in dags if "dag" in dag for task in dag["dag"]["tasks"].values()]

    def default(self, parameter: str) -> str:
        """A parameter's default."""
        return str(self.parameters[parameter]["defaultValue"])

    def settings(self) -> set[str]:
        """Keys that the config map has to hold, or no task starts."""
        maps = [one for pod in self.pods.values() for one in pod.get("configMapAsEnv", []) if not one.get("optional")]
        return {pair["configMapKey"] for one in maps for pair in one["keyToEnv"]}


def read_pipeline(path: Path) -> Compiled:
    """Read a compiled pipeline. Raises UserError for a file that is none of ours."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        with path.open(encoding="utf-8") as file:
            spec, platform = yaml.load_all(file, Loader=loader)
        found = Compiled(spec, platform)
        if "recipe" in found.parameters and found.pods:
            return found
        said = "no parameter `recipe`"
    except OSError as error:
        said = error.strerror or str(error)
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = type(error).__name__
    raise UserError(f"{path}: is no pipeline that `nvembed compile` wrote ({said})")


def checkout_root() -> Path | None:
    """The repository's root if this package is used from a checkout, else None."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "pipelines" / "pipeline.py").is_file() else None


def pipeline_file() -> Path:
    """The compiled pipeline. A checkout's own comes first: in a wheel there is no other.

    Raises:
        UserError: neither is there.
    """
    root = checkout_root()
    candidates = [Path(__file__).resolve().with_name(COMPILED)]
    if root is not None:
        candidates.insert(0, root / "pipelines" / COMPILED)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(f"{COMPILED} is missing; run `nvembed compile` in a checkout, or install nvembed again")
