"""One row of every training dataset, and the pair it is made from."""

from __future__ import annotations

from dataclasses import dataclass

from nvembed.core.digests import digest_json

SYMMETRIC = frozenset({"classification", "clustering", "sts", "pair"})
"""Task types whose documents carry the instruction too."""


@dataclass(frozen=True, slots=True)
class Example:
    """A query, its positive and its negatives, with what the model is told about them.

    `id` is a digest of everything but the negatives: mining fills those in and the example stays the same.
    Instructions are the task sentence alone; the template is the text room's business.
    """

    task: str
    task_type: str
    query: str
    positive: str
    negatives: tuple[str, ...]
    query_instruction: str
    document_instruction: str
    source: str
    license: str
    id: str

    @classmethod
    def make(
        cls,
        *,
        task: str,
        task_type: str,
        query: str,
        positive: str,
        instruction: str,
        source: str,
        license: str,
        negatives: tuple[str, ...] = (),
        document_instruction: str | None = None,
    ) -> Example:
        """An example with its id; unless told otherwise, the instruction goes on both sides of a symmetric task."""
        if document_instruction is None:
            document_instruction = instruction if task_type in SYMMETRIC else ""
        identity = [task, task_type, query, positive, instruction, document_instruction, source]
        return cls(
            task=task,
            task_type=task_type,
            query=query,
            positive=positive,
            negatives=negatives,
            query_instruction=instruction,
            document_instruction=document_instruction,
            source=source,
            license=license,
            id=digest_json(identity)[:32],
        )


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and a text that answers it, as a source gives them. `label` is the class of the text, if it has one."""

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    task: str = "retrieval"
    task_type: str = "retrieval"
    label: str = ""

    @property
    def document(self) -> str:
        """The whole text: summary and rest."""
        return f"{self.query}\n{self.positive}"

    @property
    def texts(self) -> tuple[str, str, str]:
        """Every text that a task may make of this pair."""
        return self.query, self.positive, self.document
