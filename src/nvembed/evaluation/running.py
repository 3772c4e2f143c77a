"""Measuring one candidate: BM25, the untrained backbone, or a trained stage, on every task that the recipe names.

One process loads a model once and runs all its tasks with it. The untrained backbone is measured twice, as its own
card says and under our text rule, and each task keeps the better: the baseline that a gain has to beat. A task that
fails is written down and the next one begins. Results are kept as each piece ends (`kept`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import read_manifest
from nvembed.core.errors import UserError
from nvembed.core.progress import note
from nvembed.evaluation.in_domain import sources_seen
from nvembed.evaluation.measuring import Measured, Reader
from nvembed.evaluation.plan import Planned, plan_tasks, shared_out
from nvembed.evaluation.results import Share, write_results
from nvembed.evaluation.serving import measure_serving
from nvembed.evaluation.sets import read_sets
from nvembed.evaluation.submission import plan_submission

if TYPE_CHECKING:
    from nvembed import recipe
    from nvembed.modeling import NVEmbedModel

logger = logging.getLogger(__name__)
CANDIDATES = ("bm25", "base", "stage1", "stage2")
TRAINED = ("stage1", "stage2")


def evaluate(
    candidate: str,
    evaluation: recipe.Evaluation,
    model: recipe.Model,
    resources: recipe.Resources,
    eval_sets: Path,
    adapter: Path | None,
    out: Path,
    *,
    share: tuple[int, int] = (1, 1),
) -> None:
    """Measure a candidate and write its evaluation folder.

    Args:
        candidate: "bm25", "base" (the untrained backbone), "stage1" or "stage2".
        evaluation: what is measured, batch size, seed.
        model: the model section; `resources` says where it runs.
        eval_sets: folder of kind `eval`.
        adapter: folder of kind `adapter`, needed for the trained stages and ignored for the others.
        out: the folder to be written.
        share: which share of the tasks, from 1, of how many.

    Raises:
        UserError: an unknown candidate, a trained stage without an adapter, eval sets that cannot be used, tasks that
            mteb does not know. A task that cannot be run is no error: the folder says so.
    """
    if candidate not in CANDIDATES:
        raise UserError(f"unknown candidate {candidate!r}; known: {', '.join(CANDIDATES)}")
    if candidate in TRAINED and adapter is None:
        raise UserError(f"{candidate} cannot be evaluated without its adapter folder; train {candidate} first")
    inputs, readers, serving = {}, [_bm25()], dict[str, float]()
    if candidate == "base":
        readers = [
            _reader("card", lambda: load_card(model, resources), evaluation, model),
            _reader("template", lambda: load_untrained(model, resources), evaluation, serving=serving),
        ]
    elif candidate in TRAINED:
        assert adapter is not None
        folder = adapter
        inputs["adapter"] = read_manifest(folder, kind="adapter").content
        readers = [_reader("trained", lambda: load_trained(model, resources, folder), evaluation, serving=serving)]
    evaluate_with(readers, candidate, evaluation, eval_sets, out, inputs=inputs, share=share, serving=serving)


def evaluate_model(
    name: str, model: NVEmbedModel, evaluation: recipe.Evaluation, eval_sets: Path, out: Path, *, digest: str = ""
) -> None:
    """Measure a model that is already loaded (a champion, a published checkpoint) and write its evaluation folder.

    `name` stands in the folder as the candidate; `digest` names the model in the manifest's inputs.
    """
    inputs, serving = {"model": digest or model.fingerprint()}, dict[str, float]()
    readers = [_reader("trained", lambda: model, evaluation, serving=serving)]
    evaluate_with(readers, name, evaluation, eval_sets, out, inputs=inputs, serving=serving)


def evaluate_with(
    readers: list[Reader],
    name: str,
    evaluation: recipe.Evaluation,
    eval_sets: Path,
    out: Path,
    *,
    inputs: Mapping[str, str],
    share: tuple[int, int] = (1, 1),
    serving: Mapping[str, float] | None = None,
) -> None:
    """Measure a model as each of the readers reads it, and write its evaluation folder; the rest as of `evaluate`.

    `inputs` name the model in the manifest; `serving`, filled as a model is opened, is what it costs to serve.
    """
    manifest = read_manifest(eval_sets, kind="eval")
    started = time.monotonic()
    planned = plan_tasks(evaluation, read_sets(eval_sets, evaluation.splits), searches_only=name == "bm25")
    if not planned:
        note("BM25 only searches, and no task is a retrieval task: nothing to measure")
    number, of = share
    shares = shared_out(planned, of)
    measured = Measured(shares[number - 1])
    measured.run(readers)
    if name in TRAINED and evaluation.air_bench is not None:
        handed_in = plan_submission(evaluation.air_bench)[number - 1 :: of]
        measured.rank(handed_in, evaluation.air_bench, readers[-1], f"nvembed-{name}")
    seen = evaluation.trained_on.get(name, {})
    write_results(
        out,
        name,
        evaluation,
        variants=measured.variants,
        eval_sets=manifest.content,
        inputs=inputs,
        licenses={**manifest.licenses, **{one: own.license for one, own in evaluation.own.items()}},
        speed={**measured.speed, "seconds": round(time.monotonic() - started, 2), "serving": dict(serving or {})},
        errors=measured.errors,
        notes={task.key: _notes(task, seen) for task in planned},
        files=measured.files,
        share=Share(number, of, tuple(task.key for task in planned)),
    )


def _notes(task: Planned, seen: Mapping[str, recipe.Seen]) -> dict[str, Any]:
    by = sources_seen(task, seen)
    notes: dict[str, Any] = {"group": task.group, "in_domain": bool(by)}
    if by:
        notes["in_domain_by"] = by
    if task.hf_split:
        notes["hf_split"] = task.hf_split
    return notes


def _bm25() -> Reader:
    from importlib.metadata import version

    from nvembed.data.words import K1, B

    def open_bm25() -> tuple[Any, Mapping[str, Any]]:
        from nvembed.evaluation.bm25 import BM25Model

        return BM25Model(), {"bm25": [K1, B, version("bm25s"), version("PyStemmer")]}

    return Reader("bm25", open_bm25)


def _reader(
    variant: str,
    load: Callable[[], NVEmbedModel],
    evaluation: recipe.Evaluation,
    card: recipe.Model | None = None,
    *,
    serving: dict[str, float] | None = None,
) -> Reader:
    """Our model as mteb's. One read by its card (`card` is its section) gets the card's prefixes and no instruction.

    `serving` is filled with what it costs to serve, once the model is loaded.
    """

    def open_model() -> tuple[Any, Mapping[str, Any]]:
        from nvembed.encoding import encode
        from nvembed.encoding.encode import plan_cached
        from nvembed.evaluation.wrapper import MTEBEncoder

        model = load()
        if serving is not None:
            serving.update(measure_serving(model))
        tokens = evaluation.batch_tokens  # moves a vector's last digits alone, which no score shows
        settings = plan_cached(model, batch_tokens=tokens).settings(model)
        prefixes = (card.card_query_prefix, card.card_document_prefix) if card else ("", "")
        made_by = {"model": model.fingerprint(), **settings, "prefixes": list(prefixes), "instructed": card is None}

        def encode_texts(texts: list[str], instruction: str) -> Any:
            label = f"encoding ({variant})"
            return encode(model, texts, instruction=instruction, batch_tokens=tokens, label=label)

        encoder = MTEBEncoder(
            encode_texts,
            name=variant,
            instructions=card is None,
            query_prefix=prefixes[0],
            document_prefix=prefixes[1],
            made_by=made_by,
            most_bytes=evaluation.vector_cache_gb * 1e9,
        )
        return encoder, made_by

    return Reader(variant, open_model)


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
