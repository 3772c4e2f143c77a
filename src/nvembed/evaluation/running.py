"""Measuring one candidate: BM25, the untrained backbone, or a trained stage, on every task of the eval folder.

One process loads a model once and runs all tasks and splits with it. The untrained backbone is measured twice, as its
own card says and under our text rule, and each task keeps the better: the baseline that a gain has to beat.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import read_manifest
from nvembed.core.errors import UserError
from nvembed.core.progress import Progress, note
from nvembed.evaluation.results import write_results
from nvembed.evaluation.sets import EvalSet, read_sets

if TYPE_CHECKING:
    from nvembed import recipe
    from nvembed.evaluation.scoring import Scored
    from nvembed.modeling import NVEmbedModel

logger = logging.getLogger(__name__)
CANDIDATES = ("bm25", "base", "stage1", "stage2")


def evaluate(
    candidate: str,
    evaluation: recipe.Evaluation,
    model: recipe.Model,
    resources: recipe.Resources,
    eval_sets: Path,
    adapter: Path | None,
    out: Path,
) -> None:
    """Measure a candidate and write its evaluation folder.

    Args:
        candidate: "bm25", "base" (the untrained backbone), "stage1" or "stage2".
        evaluation: splits, batch size, seed.
        model: the model section; `resources` says where it runs.
        eval_sets: folder of kind `eval`.
        adapter: folder of kind `adapter`, needed for the trained stages and ignored for the others.
        out: the folder to be written.

    Raises:
        UserError: an unknown candidate, a trained stage without an adapter, eval sets that cannot be used.
    """
    if candidate not in CANDIDATES:
        raise UserError(f"unknown candidate {candidate!r}; known: {', '.join(CANDIDATES)}")
    if candidate in ("stage1", "stage2") and adapter is None:
        raise UserError(f"{candidate} cannot be evaluated without its adapter folder; train {candidate} first")
    sets_manifest = read_manifest(eval_sets, kind="eval")
    sets = read_sets(eval_sets, evaluation.splits)
    inputs = {}
    if candidate == "bm25":
        run = _run_bm25(sets, evaluation)
    elif candidate == "base":
        run = _run_models(
            {"card": lambda: load_card(model, resources), "template": lambda: load_untrained(model, resources)},
            sets,
            evaluation,
            model,
        )
    else:
        assert adapter is not None
        inputs["adapter"] = read_manifest(adapter, kind="adapter").content
        run = _run_models({"trained": lambda: load_trained(model, resources, adapter)}, sets, evaluation, model)
    variants, speed = run
    write_results(
        out,
        candidate,
        evaluation,
        variants=variants,
        eval_sets=sets_manifest.content,
        inputs=inputs,
        licenses=sets_manifest.licenses,
        speed=speed,
    )


def evaluate_model(
    name: str, model: NVEmbedModel, evaluation: recipe.Evaluation, eval_sets: Path, out: Path, *, digest: str = ""
) -> None:
    """Measure a model that is already loaded (a champion, a published checkpoint) and write its evaluation folder.

    `name` stands in the folder as the candidate; `digest` names the model in the manifest's inputs.
    """
    sets_manifest = read_manifest(eval_sets, kind="eval")
    sets = read_sets(eval_sets, evaluation.splits)
    variants, speed = _run_models({"trained": lambda: model}, sets, evaluation, None)
    write_results(
        out,
        name,
        evaluation,
        variants=variants,
        eval_sets=sets_manifest.content,
        inputs={"model": digest or model.fingerprint()},
        licenses=sets_manifest.licenses,
        speed=speed,
    )


def _run_bm25(sets: list[EvalSet], evaluation: recipe.Evaluation) -> tuple[dict[str, list[Scored]], dict[str, Any]]:
    from nvembed.evaluation.bm25 import BM25Model
    from nvembed.evaluation.scoring import score_set

    started = time.monotonic()
    searched = [source for source in sets if source.type == "Retrieval"]
    if not searched:
        note("BM25 only searches, and the eval sets hold no retrieval task: nothing to measure")
    scored = [score_set(source, BM25Model(), evaluation.seed) for source in searched]
    return {"bm25": scored}, {"seconds": round(time.monotonic() - started, 2)}


def _run_models(
    loaders: dict[str, Callable[[], NVEmbedModel]],
    sets: list[EvalSet],
    evaluation: recipe.Evaluation,
    section: recipe.Model | None,
) -> tuple[dict[str, list[Scored]], dict[str, Any]]:
    variants: dict[str, list[Scored]] = {}
    speed: dict[str, Any] = {"seconds": 0.0, "encoding_seconds": 0.0, "texts": 0}
    started = time.monotonic()
    progress = Progress("tasks", len(loaders) * len(sets))
    for variant, load in loaders.items():
        encoder = _wrap(load(), variant, evaluation, section if variant == "card" else None)
        variants[variant] = []
        for source in sets:
            progress.update(progress.done, f"{source.split} {source.name}")
            own = source.instructions
            encoder.own_instructions = {text: own[i] for i, text in source.queries.items() if i in own}
            variants[variant].append(_score(source, encoder, evaluation.seed))
            progress.update(progress.done + 1)
        speed["encoding_seconds"] += encoder.seconds
        speed["texts"] += encoder.texts_encoded
    speed["texts_per_second"] = round(speed["texts"] / max(speed["encoding_seconds"], 1e-9), 1)
    speed["encoding_seconds"] = round(speed["encoding_seconds"], 2)
    speed["seconds"] = round(time.monotonic() - started, 2)
    return variants, speed


def _score(source: EvalSet, encoder: Any, seed: int) -> Scored:
    from nvembed.evaluation.scoring import score_set

    scored = score_set(source, encoder, seed)
    logger.info("%s %s: %s %.4f", source.split, source.name, source.main_score, scored.score)
    return scored


def _wrap(model: NVEmbedModel, variant: str, evaluation: recipe.Evaluation, card: recipe.Model | None) -> Any:
    """Our model as mteb's. One read by its card (`card` is its section) gets the card's prefixes and no instruction."""
    from nvembed.encoding import encode
    from nvembed.evaluation.wrapper import MTEBEncoder

    def encode_texts(texts: list[str], instruction: str) -> Any:
        label = f"encoding ({variant})"
        return encode(model, texts, instruction=instruction, batch_tokens=evaluation.batch_tokens, label=label)

    if card is None:
        return MTEBEncoder(encode_texts, name=variant)
    return MTEBEncoder(
        encode_texts,
        name=variant,
        instructions=False,
        query_prefix=card.card_query_prefix,
        document_prefix=card.card_document_prefix,
    )


def load_card(model: recipe.Model, resources: recipe.Resources) -> NVEmbedModel:
    """The untrained backbone as its own card says: its own pooling and attention, no block, no instruction."""
    from nvembed.modeling import NVEmbedModel

    return NVEmbedModel.from_card(
        model.backbone,
        revision=model.revision,
        pooling=model.card_pooling,
        max_length=model.max_length,
        precision=model.precision,
        trust_remote_code=model.trust_remote_code,
        **_place(model, resources),
    )


def load_untrained(model: recipe.Model, resources: recipe.Resources) -> NVEmbedModel:
    """The untrained backbone under our text rule and attention.

    A block of random weights (latent, self-attention) is no part of the backbone; one that starts as the identity,
    averaged, is mean pooling. So such a section is measured with the mean, and without LoRA, which starts as nothing.
    """
    from nvembed.modeling import NVEmbedModel

    pooling = "mean" if model.pooling in ("latent", "self-attention") else model.pooling
    lora = model.lora.model_copy(update={"enabled": False})
    plain = model.model_copy(update={"pooling": pooling, "lora": lora})
    return NVEmbedModel.from_section(plain, None, **_place(model, resources))


def load_trained(model: recipe.Model, resources: recipe.Resources, adapter: Path) -> NVEmbedModel:
    """A trained stage."""
    from nvembed.modeling import NVEmbedModel

    return NVEmbedModel.from_section(model, adapter, **_place(model, resources))


def _place(model: recipe.Model, resources: recipe.Resources) -> dict[str, Any]:
    """Device and dtype of the weights: float32 on a CPU, bf16 on a GPU unless the section asks for float32."""
    import torch

    device = resources.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("resources.device is cuda, but this machine has no usable GPU; set resources.device=cpu")
    if device == "cpu" and resources.threads:
        torch.set_num_threads(resources.threads)
    half = device == "cuda" and model.precision != "float32"
    return {"device": device, "dtype": torch.bfloat16 if half else torch.float32}
