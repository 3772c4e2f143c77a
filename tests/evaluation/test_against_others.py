"""The model wrapped for mteb: it passes mteb's own check, and scores as Sentence Transformers does on its folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from mteb.results.task_result import TaskResult

from nvembed.encoding import encode
from nvembed.evaluation.scoring import Scored, score_set
from nvembed.evaluation.sets import read_sets
from nvembed.evaluation.wrapper import MTEBEncoder
from nvembed.modeling import NVEmbedModel
from nvembed.modeling.checkpoint import write_model
from nvembed.recipe import LatentBlock, LoRA, Model

MODEL = Model(
    backbone="random:mistral-tiny",
    latent=LatentBlock(num_latents=8, num_heads=2, head_dim=16, init="identity"),
    lora=LoRA(rank=2),
    max_length=64,
    precision="float32",
)


@pytest.fixture(scope="module")
def model() -> NVEmbedModel:
    return NVEmbedModel.from_section(MODEL)


def wrapped(model: NVEmbedModel) -> MTEBEncoder:
    return MTEBEncoder(lambda texts, told: encode(model, texts, instruction=told), name="tiny")


def test_mtebs_check_passes_all_its_text_tasks(model: NVEmbedModel) -> None:
    results = mteb.mock_run(wrapped(model))
    status = {task: found for task, found in results.items() if found is not None}
    texts = {task.metadata.name for task in mteb.mocks.ALL_MOCK_TASK_TEST_GRID if task.metadata.modalities == ["text"]}
    assert set(status) == texts and len(texts) >= 28
    assert [task for task, found in status.items() if not isinstance(found, TaskResult)] == []


class FromItsFolder:
    """Sentence Transformers as mteb sees it, with the published template as its prompt."""

    def __init__(self, folder: Path, meta: Any) -> None:
        from sentence_transformers import SentenceTransformer

        self._model, self.mteb_model_meta = SentenceTransformer(str(folder), device="cpu"), meta

    def encode(self, inputs: Any, *, task_metadata: Any, prompt_type: Any = None, **kwargs: Any) -> np.ndarray:
        told = task_metadata.prompt
        if isinstance(told, dict):
            told = told[prompt_type.value]
        texts = [text for batch in inputs for text in batch["text"]]
        prompt = f"Instruct: {told}\nQuery: " if told else ""
        return self._model.encode(texts, prompt=prompt, normalize_embeddings=True, show_progress_bar=False)

    def similarity(self, one: Any, other: Any) -> Any:
        return self._model.similarity(one, other)

    def similarity_pairwise(self, one: Any, other: Any) -> Any:
        return self._model.similarity_pairwise(one, other)


def test_local_tasks_score_as_with_sentence_transformers_over_the_exported_folder(
    model: NVEmbedModel, eval_folder: Path, tmp_path: Path
) -> None:
    write_model(model, tmp_path / "model", instructions={})
    ours = wrapped(model)
    theirs = FromItsFolder(tmp_path / "model", ours.mteb_model_meta)
    score: Callable[[Any, Any], Scored] = lambda source, one: score_set(source, one, 17)  # noqa: E731
    for source in read_sets(eval_folder, ["test"]):
        assert score(source, ours).scores == pytest.approx(score(source, theirs).scores, abs=1e-6), source.name
