"""What this project needs of a cluster, as data: `nvembed doctor --cluster` and the README's table read the same."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nvembed.cluster.trainjob import GROUP, VERSION
from nvembed.core.findings import State


@dataclass(frozen=True)
class Component:
    """One row.

    Attributes:
        name: as people call it.
        least: the oldest version with what the code uses, `major.minor`.
        newest: the newest one that code and manifests were held to, by its client, schemas or source.
        why: what came with `least`.
        group, version: of its kinds, where it has some of its own.
        needed: for what; empty: always.
    """

    name: str
    least: str
    newest: str
    why: str
    group: str = ""
    version: str = ""
    needed: str = ""

    @property
    def api(self) -> str:
        """Group and version, as manifests write them."""
        return f"{self.group}/{self.version}" if self.group else ""


KUBERNETES = Component("Kubernetes", "1.31", "1.37", "the oldest that Kubeflow Trainer takes")
PIPELINES = Component("Kubeflow Pipelines", "2.16", "2.17", "tasks run as the user that the pipeline names")
TRAINER = Component(
    *("Kubeflow Trainer", "2.2", "2.3", "`runtimePatches` and `activeDeadlineSeconds` of a TrainJob"),
    group=GROUP,
    version=VERSION,
    needed="`resources.launcher: trainjob`",
)
JOBSET = Component(
    *("JobSet", "0.11", "0.12", "what Trainer 2.2 brings along"),
    group="jobset.x-k8s.io",
    version="v1alpha2",
    needed="Kubeflow Trainer",
)
KUEUE = Component(
    *("Kueue", "0.17", "0.20", "places TrainJobs of Trainer 2.2 and newer"),
    group="kueue.x-k8s.io",
    version="v1beta2",
    needed="`resources.trainjob.queue`",
)
SUPPORT = (KUBERNETES, PIPELINES, TRAINER, JOBSET, KUEUE)


def version_of(text: str) -> tuple[int, int] | None:
    """Major and minor of `v1.36.1+k3s1`, `2.17.0`, an image's `name:v0.12.0`; None where there are none."""
    found = re.search(r"(?:^|[:\s])v?(\d+)\.(\d+)(?:[.+-]|$)", text)
    return (int(found[1]), int(found[2])) if found else None


def held_against(component: Component, version: str) -> tuple[State, str, str]:
    """State, what to say and how to mend it, of an installed version."""
    have, said = version_of(version), version.removeprefix("v")
    if have is None:
        return "warning", f"does not say which version it is; {component.least} or newer is needed", ""
    if have < _pair(component.least):
        mend = f"upgrade to {component.least} or newer: {component.why}"
        return "wrong", f"{said} is too old", mend
    if have > _pair(component.newest):
        return "warning", f"{said} is newer than {component.newest}, the newest that was looked at", ""
    return "ok", said, ""


def table() -> str:
    """The rows as a Markdown table."""
    lines = ["| component | from | up to | kinds | needed for | the oldest is that because of |", "|" + " --- |" * 6]
    for one in SUPPORT:
        api = f"`{one.api}`" if one.api else "–"
        lines.append(f"| {one.name} | {one.least} | {one.newest} | {api} | {one.needed or 'everything'} | {one.why} |")
    return "\n".join(lines)


def _pair(version: str) -> tuple[int, int]:
    major, minor = version.split(".")
    return int(major), int(minor)
