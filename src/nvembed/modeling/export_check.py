"""No saved model leaves unread: what was written is loaded by every loader, and its vectors compared.

Two questions are asked. Are the tensors on disk those that were to be written, bit for bit? And do the loaders, which
know nothing but the folder, give the vectors of the model in memory: the same configuration, text rule and pooling?
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nvembed.core.errors import UserError
from nvembed.modeling.backbone import quiet

if TYPE_CHECKING:
    from nvembed.modeling.model import NVEmbedModel

logger = logging.getLogger(__name__)
Encode = Callable[[list[str], str, int], np.ndarray]

TOLERANCE = 1e-5
# of the cosine between a text's two vectors, where weights were rounded: for wrong weights it is far from 1
COSINE_TOLERANCE = {torch.float16: 1e-4, torch.bfloat16: 5e-3}
_INSTRUCTION = "Given a question, retrieve passages that answer it"
_TEXTS = (
    "Return the absolute path of a file.",
    "a",
    "",
    " begins with a space",
    "Größe, 大きさ, 🙂: what is left of a text after normalisation?",
)
_LONG = "Write an object to an open file. "


def check_tensors(state: Mapping[str, Tensor], folder: Path) -> None:
    """Raises RuntimeError unless a folder's safetensors hold exactly the tensors of `state`, bit for bit."""
    from safetensors import safe_open

    missing = set(state)
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stream:
            for name in stream.keys():  # noqa: SIM118 - no mapping
                if name not in missing:
                    raise _refused(f"tensor {name} is written twice, or is none of the model's")
                missing.remove(name)
                found, expected = stream.get_tensor(name), state[name]
                if found.dtype != expected.dtype or not _same_bits(found, expected):
                    raise _refused(f"tensor {name} is not what was to be written")
    if missing:
        raise _refused(f"tensor {min(missing)} is not in the folder")


def check_equal(model: NVEmbedModel, folder: Path, layout: str = "sentence-transformers") -> dict[str, float]:
    """Largest difference of each loader's vectors from the model's own, with and without an instruction.

    The loaders compute in float32 on the CPU. Where weights and model are float32 too, each must give the model's own
    vectors within 1e-5. Where they were rounded, `NVEmbedModel` must come near (`COSINE_TOLERANCE`), and the others
    must give its vectors within 1e-5. Sentence Transformers is asked where it is installed.

    Raises RuntimeError for a folder that gives other vectors or cannot be loaded.
    """
    loaders: dict[str, Callable[[Path], Encode]] = {"NVEmbedModel": through_ourselves}
    if layout == "nv-embed":
        loaders["AutoModel"] = _by_the_published_steps
    else:
        loaders["AutoModel"] = _through_transformers
        if importlib.util.find_spec("sentence_transformers") is not None:
            loaders["SentenceTransformer"] = _through_sentence_transformers
    return compare(model, folder, loaders)


def compare(model: NVEmbedModel, folder: Path, loaders: Mapping[str, Callable[[Path], Encode]]) -> dict[str, float]:
    """`check_equal` with loaders of one's own; the first is the one that is compared with the model itself."""
    rounded = _coarsest(model, folder)
    length, prefixes = _lengths(model)
    texts = [*_TEXTS, _LONG * (1 + length // 4)]
    expected = {prefix: model.encode(texts, prefix, length) for prefix in prefixes}
    reference = expected
    differences: dict[str, float] = {}
    for place, (name, load) in enumerate(loaders.items()):
        try:
            encode = load(folder)
            found = {prefix: encode(texts, prefix, length) for prefix in prefixes}
        except (UserError, OSError, ValueError, KeyError) as error:
            raise _refused(f"{name} cannot load it ({error})") from error
        for prefix in prefixes:
            _check_vectors(name, found[prefix], reference[prefix], prefix, rounded if place == 0 else None)
        differences[name] = max(float(np.abs(found[prefix] - expected[prefix]).max()) for prefix in prefixes)
        if place == 0 and rounded is not None:
            reference = found
    logger.info("saved model: largest differences %s", differences)
    return differences


def _check_vectors(
    name: str, found: np.ndarray, expected: np.ndarray, prefix: str, rounded: torch.dtype | None
) -> None:
    how = "with" if prefix else "without"
    if rounded is None:
        gap, limit = float(np.abs(found - expected).max()), TOLERANCE
    else:
        gap, limit = float((1 - (found * expected).sum(1)).max()), COSINE_TOLERANCE[rounded]
    if not gap <= limit:
        what = "by" if rounded is None else f"for {str(rounded).removeprefix('torch.')}, 1 - cosine"
        raise _refused(f"{name} gives other vectors {how} an instruction ({what} {gap:.1e})")


def _refused(why: str) -> RuntimeError:
    return RuntimeError(f"saved model: {why}; nothing is kept")


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    return torch.equal(*(tensor.contiguous().flatten().view(torch.uint8) for tensor in (one, other)))


def _coarsest(model: NVEmbedModel, folder: Path) -> torch.dtype | None:
    """The coarsest type that weights have here or there; None if all are float32 or finer."""
    from safetensors import safe_open

    found = {parameter.dtype for parameter in model.parameters()}
    names = {"BF16": torch.bfloat16, "F16": torch.float16}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as stream:
            stored = {stream.get_slice(name).get_dtype() for name in stream.keys()}  # noqa: SIM118 - no mapping
            found |= {names[name] for name in stored & names.keys()}
    return next((dtype for dtype in (torch.bfloat16, torch.float16) if dtype in found), None)


def _lengths(model: NVEmbedModel) -> tuple[int, list[str]]:
    """A length that cuts the long text, and the prefixes that leave room for text in it: none, and an instruction's."""
    prefix = model.rule.prefix(_INSTRUCTION)
    needed = len(model.rule.tokenizer(prefix)["input_ids"])
    length = min(model.max_length, max(128, needed + 32))
    return length, ["", prefix] if needed < length else [""]


def through_ourselves(folder: Path) -> Encode:
    """`NVEmbedModel` on the CPU, in float32."""
    from nvembed.modeling.model import NVEmbedModel

    loaded = NVEmbedModel.from_pretrained(folder)
    return lambda texts, prefix, length: loaded.encode(texts, prefix, length)


def _through_sentence_transformers(folder: Path) -> Encode:
    from sentence_transformers import SentenceTransformer

    with quiet():
        loaded = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})

    def encode(texts: list[str], prefix: str, length: int) -> np.ndarray:
        loaded.max_seq_length = length
        return loaded.encode(texts, prompt=prefix or None, show_progress_bar=False)

    return encode


def _through_transformers(folder: Path) -> Encode:
    """Token states from `AutoModel`, averaged: one text at a time, so that nothing is padding."""
    model, tokenizer = _auto_classes(folder)

    def one(text: str, prefix: str, length: int) -> Tensor:
        batch = tokenizer([prefix + text], return_tensors="pt", truncation=True, max_length=length)
        states = model(**batch, prompt_length=_prompt_length(tokenizer, prefix)).last_hidden_state[0]
        return {"last": states[-1], "cls": states[0]}.get(model.spec.pooling, states.mean(0))

    return _each(one)


def _by_the_published_steps(folder: Path) -> Encode:
    """The published code's own way: end token as text, as many positions left out as the prefix has tokens."""
    model, tokenizer = _auto_classes(folder)

    def one(text: str, prefix: str, length: int) -> Tensor:
        end = tokenizer.eos_token if model.spec.append_eos else ""
        batch = tokenizer([prefix + text + end], return_tensors="pt", truncation=True, max_length=length)
        left_out = len(tokenizer(prefix, add_special_tokens=False)["input_ids"]) if prefix else 0
        states = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state[0]
        return states[left_out:].mean(0)

    return _each(one)


def _auto_classes(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    with quiet():
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()
    return model, AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _each(one: Callable[[str, str, int], Tensor]) -> Encode:
    def encode(texts: list[str], prefix: str, length: int) -> np.ndarray:
        with torch.inference_mode():
            rows = [torch.nn.functional.normalize(one(text, prefix, length), dim=-1) for text in texts]
        return torch.stack(rows).numpy()

    return encode


def _prompt_length(tokenizer: Any, prefix: str) -> int | None:
    """Tokens of the prompt as Sentence Transformers counts them: without the end token that the tokenizer adds."""
    if not prefix:
        return None
    ids = tokenizer(prefix)["input_ids"]
    return len(ids) - 1 if ids and ids[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id) else len(ids)
