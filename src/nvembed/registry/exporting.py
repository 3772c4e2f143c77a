"""A trained model as one folder that four loaders read alike, checked before it leaves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import Manifest, output_folder, read_manifest, write_file, write_manifest
from nvembed.core.digests import digest_file, digest_json
from nvembed.registry.card import model_card

if TYPE_CHECKING:
    import numpy as np

    from nvembed.modeling import NVEmbedModel
    from nvembed.recipe import Model

logger = logging.getLogger(__name__)
TOLERANCE = 1e-5
_TEXTS = (
    "Return the absolute path of a file.",
    "a",
    "Größe, 大きさ, 🙂: what is left of a text after normalisation?",
    "Write an object to an open file. " * 40,
)
_INSTRUCTION = "Given a question, retrieve passages that answer it"


def model_digest(model: Model, adapter: Path) -> str:
    """Names a trained model by its section, base weights and trained tensors. Reads no weights into memory.

    Raises UserError if `adapter` is no adapter folder.
    """
    manifest = read_manifest(adapter, kind="adapter")
    section = model.model_dump(mode="json")
    base = manifest.extra.get("backbone_digest") or model.digest
    return digest_json([section, base, digest_file(adapter / "trainable.safetensors")])


def export(model: Model, adapter: Path, out: Path, card: Mapping[str, Any]) -> Manifest:
    """Merge the adapter into its backbone and write the whole model to `out`, with a model card and a manifest.

    The folder loads by `SentenceTransformer`, `AutoModel` (both after `import nvembed`), `NVEmbedModel` and, once
    registered, MLflow. Before it takes its place, every loader must give the vectors of the model in memory within
    1e-5 in float32, with and without an instruction.

    Args:
        card: what `card.model_card` takes; `instructions` are kept as prompts by name.

    Raises:
        UserError: the adapter does not fit the section.
        RuntimeError: a loader gives other vectors; nothing is left at `out`.
    """
    from nvembed.modeling import NVEmbedModel

    trained = read_manifest(adapter, kind="adapter")
    loaded = NVEmbedModel.from_section(model, adapter)
    with output_folder(out) as folder:
        loaded.save_pretrained(
            folder, layout="sentence-transformers", instructions=dict(card.get("instructions") or {})
        )
        differences = check_equal(loaded, folder)
        write_file(folder / "README.md", model_card(model, loaded.dim, card))
        return write_manifest(
            folder,
            kind="model",
            section=model.model_dump(mode="json"),
            inputs={"adapter": trained.content, "backbone": str(trained.extra.get("backbone_digest") or "")},
            licenses=dict(card.get("licenses") or {}),
            extra={"model_digest": model_digest(model, adapter), "dim": loaded.dim, "differences": differences},
        )


def check_equal(model: NVEmbedModel, folder: Path) -> dict[str, float]:
    """Largest difference of each loader's vectors from the model's own. Raises RuntimeError above 1e-5."""
    import numpy as np

    loaders: dict[str, Callable[[Path], Callable[[list[str], str], np.ndarray]]] = {
        "NVEmbedModel": _through_ourselves,
        "SentenceTransformer": _through_sentence_transformers,
        "AutoModel": _through_transformers,
    }
    texts = list(_TEXTS)
    expected = {instruction: model.encode(texts, instruction=instruction) for instruction in ("", _INSTRUCTION)}
    differences: dict[str, float] = {}
    for name, load in loaders.items():
        encode = load(folder)
        for instruction, vectors in expected.items():
            gap = float(np.abs(encode(texts, model.rule.prefix(instruction) if instruction else "") - vectors).max())
            differences[name] = max(differences.get(name, 0.0), gap)
            if not gap <= TOLERANCE:
                how = "with" if instruction else "without"
                raise RuntimeError(
                    f"exported model: {name} gives other vectors {how} an instruction (by {gap:.1e}); nothing is kept"
                )
    logger.info("exported model: largest differences %s", differences)
    return differences


def _through_ourselves(folder: Path) -> Callable[[list[str], str], np.ndarray]:
    from nvembed.modeling import NVEmbedModel

    model = NVEmbedModel.from_pretrained(folder)
    return lambda texts, prefix: model.encode(texts, instruction=prefix)


def _through_sentence_transformers(folder: Path) -> Callable[[list[str], str], np.ndarray]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    return lambda texts, prefix: model.encode(texts, prompt=prefix or None, show_progress_bar=False)


def _through_transformers(folder: Path) -> Callable[[list[str], str], np.ndarray]:
    """Token states from `AutoModel`, averaged: one text at a time, so that nothing is padding."""
    import numpy as np
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)

    def one(text: str, prefix: str) -> np.ndarray:
        length = _prompt_length(tokenizer, prefix)
        batch = tokenizer([prefix + text], return_tensors="pt", truncation=True)
        states = model(**batch, prompt_length=length).last_hidden_state[0]
        pooled = {"last": states[-1], "cls": states[0]}.get(model.spec.pooling, states.mean(0))
        return torch.nn.functional.normalize(pooled, dim=-1).numpy()

    def encode(texts: list[str], prefix: str) -> np.ndarray:
        with torch.inference_mode():
            return np.stack([one(text, prefix) for text in texts])

    return encode


def _prompt_length(tokenizer: Any, prefix: str) -> int | None:
    """Tokens of the prompt as Sentence Transformers counts them: without the end token that the tokenizer adds."""
    if not prefix:
        return None
    ids = tokenizer(prefix)["input_ids"]
    return len(ids) - 1 if ids and ids[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id) else len(ids)
