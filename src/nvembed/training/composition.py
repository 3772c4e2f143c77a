"""What a stage's epochs are made of, told before it starts: of each dataset so many examples, and how often each."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nvembed.data import BatchSampler


@dataclass(frozen=True)
class Part:
    """One dataset of an epoch.

    Attributes:
        task, source, task_type: what it is.
        examples: how many it has.
        per_epoch: how many of them, repeated ones counted each time, an epoch holds.
        share: of the epoch's examples.
        passes: how often the stage's steps see each of its examples, on average.
    """

    task: str
    source: str
    task_type: str
    examples: int
    per_epoch: int
    share: float
    passes: float


@dataclass(frozen=True)
class Composition:
    """An epoch's parts; `epochs`: how many epochs the stage's steps are."""

    parts: list[Part]
    steps: int
    steps_per_epoch: int

    @classmethod
    def of(cls, sampler: BatchSampler, steps: int) -> Composition:
        """What a sampler's epochs are made of, and how many `steps` are."""
        total, epochs = sampler.examples_per_epoch, steps / sampler.steps_per_epoch
        parts = [
            Part(
                task=dataset.task,
                source=dataset.source,
                task_type=dataset.task_type,
                examples=len(dataset.rows),
                per_epoch=dataset.quota,
                share=dataset.quota / total,
                passes=epochs * dataset.quota / len(dataset.rows),
            )
            for dataset in sampler.datasets
        ]
        return cls(parts, steps, sampler.steps_per_epoch)

    @property
    def epochs(self) -> float:
        """Epochs of the stage."""
        return self.steps / self.steps_per_epoch

    def summary(self, shown: int = 6) -> str:
        """One line: the epoch, its largest parts, how many epochs there are."""
        parts = sorted(self.parts, key=lambda part: -part.per_epoch)
        named = [f"{part.task} ({part.source}) {part.share:.1%}" for part in parts[:shown]]
        if len(parts) > shown:
            named.append(f"{len(parts) - shown} more {sum(part.share for part in parts[shown:]):.1%}")
        count = sum(part.per_epoch for part in parts)
        return (
            f"an epoch: {count} examples in {self.steps_per_epoch} steps, {', '.join(named)}; "
            f"{self.steps} steps are {self.epochs:.2f} epochs"
        )

    def table(self) -> str:
        """All parts in columns, for the log."""
        rows = [_HEAD, *(_cells(part) for part in self.parts)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)

    def html(self) -> str:
        """All parts as a heading and a table of a page."""
        rows = [_HEAD, *(_cells(part) for part in self.parts)]
        lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        about = f"{self.steps} steps are {self.epochs:.2f} epochs of {self.steps_per_epoch} steps."
        return f"<h2>What an epoch holds</h2>\n<p>{about}</p>\n<table>{lines}</table>"

    def as_json(self) -> list[dict[str, Any]]:
        """The parts, for the manifest."""
        return [asdict(part) for part in self.parts]


_HEAD = ("task", "source", "task type", "examples", "per epoch", "share", "times each is seen")


def _cells(part: Part) -> tuple[str, ...]:
    counts = (f"{part.examples:,}", f"{part.per_epoch:,}", f"{part.share:.2%}", f"{part.passes:.2f}")
    return (part.task, part.source, part.task_type, *counts)
