"""The eval folder's sets as ordinary MTEB tasks: mteb draws, trains, clusters and scores; nothing of it is redone here.

A task is made anew for each split and each model, so that mteb's random states start equal and every model meets the
same few-shot draws and the same clustering samples.
"""

from __future__ import annotations

from typing import Any

from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTaskClassification, AbsTaskClustering, AbsTaskRetrieval
from mteb.abstasks.abstask import AbsTask
from mteb.abstasks.task_metadata import TaskMetadata

from nvembed.evaluation.sets import EvalSet

DEPTH = 100
"""How many documents of a ranking are scored and kept."""
CLUSTERING_DRAWS = 16_384
"""mteb's own bound on the documents it draws, with replacement, for one clustering."""


class LocalRetrieval(AbsTaskRetrieval):
    """Queries against a corpus."""

    k_values = (1, 3, 5, 10, 20, DEPTH)

    def __init__(self, source: EvalSet, seed: int) -> None:
        self.source, self.metadata = source, _metadata(source)
        super().__init__(seed=seed)

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Hand mteb what the eval folder holds."""
        source = self.source
        data: Any = {
            "corpus": Dataset.from_dict({"id": list(source.corpus), "text": list(source.corpus.values())}),
            "queries": Dataset.from_dict({"id": list(source.queries), "text": list(source.queries.values())}),
            "relevant_docs": source.qrels,
            "top_ranked": None,
        }
        self.dataset = {"default": {source.split: data}}
        self.data_loaded = True


class LocalClassification(AbsTaskClassification):
    """A logistic regression on a few labelled texts of each class, ten times over."""

    def __init__(self, source: EvalSet, seed: int) -> None:
        self.source, self.metadata = source, _metadata(source)
        super().__init__(seed=seed)

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Hand mteb what the eval folder holds."""
        self.dataset = DatasetDict(
            {"train": _labelled(self.source.train), self.source.split: _labelled(self.source.test)}
        )
        self.data_loaded = True


class LocalClustering(AbsTaskClustering):
    """k-means on documents drawn with replacement, ten times over, against the labels."""

    max_fraction_of_documents_to_embed = None  # the default embeds 4 %: right for a million documents, not for 500

    def __init__(self, source: EvalSet, seed: int) -> None:
        self.source, self.metadata = source, _metadata(source)
        # four draws a document leave 2 % of them out of each clustering; more would only repeat the same documents
        self.max_documents_per_cluster = min(CLUSTERING_DRAWS, 4 * len(source.test[0]))
        super().__init__(seed=seed)

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Hand mteb what the eval folder holds."""
        self.dataset = DatasetDict({self.source.split: _labelled(self.source.test, "sentences", "labels")})
        self.data_loaded = True


def local_task(source: EvalSet, seed: int) -> AbsTask:
    """The MTEB task of an eval set, its data loaded."""
    kinds: dict[str, Any] = {
        "Retrieval": LocalRetrieval,
        "Classification": LocalClassification,
        "Clustering": LocalClustering,
    }
    task: AbsTask = kinds[source.type](source, seed)
    task.load_data()
    return task


def _labelled(pairs: tuple[list[str], list[int]], text: str = "text", label: str = "label") -> Dataset:
    return Dataset.from_dict({text: pairs[0], label: pairs[1]})


def _metadata(source: EvalSet) -> TaskMetadata:
    symmetric = source.type != "Retrieval"
    return TaskMetadata(
        name=source.name,
        description=f"Local {source.type.lower()} set, split {source.split}",
        dataset={"path": f"local/{source.name}", "revision": "local"},
        type=source.type,  # type: ignore[arg-type]
        category="t2c" if symmetric else "t2t",
        modalities=["text"],
        eval_splits=[source.split],
        eval_langs=["eng-Latn"],
        main_score=source.main_score,
        prompt=source.instruction
        if symmetric
        else {"query": source.instruction, "document": source.document_instruction},
    )
