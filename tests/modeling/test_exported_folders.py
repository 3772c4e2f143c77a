"""One exported folder, the same vectors within 1e-5 through every loader, with and without an instruction."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from modeling_helpers import DATA, INSTRUCTION, MINILM, TEXTS, furthest
from safetensors.torch import load_file

from nvembed import NVEmbedModel
from nvembed.core.errors import UserError
from nvembed.recipe import Model

Section = Callable[..., Model]
Stir = Callable[[NVEmbedModel], NVEmbedModel]
PROMPT = f"Instruct: {INSTRUCTION}\nQuery: "


def by_sentence_transformers(folder: Path, texts: list[str], **prompt: str) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(texts, **prompt)


def by_transformers(folder: Path, texts: list[str], pooling: str) -> np.ndarray:
    """Tokens from AutoTokenizer, states from AutoModel, pooled over all attended tokens."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder)(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    if pooling == "last":
        pooled = states[torch.arange(len(texts)), mask.sum((1, 2)) - 1]
    else:
        pooled = (states * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(pooled, dim=-1).numpy()


@pytest.mark.parametrize("pooling", ["latent", "mean", "last", "self-attention"])
@pytest.mark.parametrize(("backbone", "lora"), [("random:mistral-tiny", True), (MINILM, False)])
def test_all_loaders_give_the_models_own_vectors(
    section: Section, stirred: Stir, tmp_path: Path, backbone: str, lora: bool, pooling: str
) -> None:
    asked = section(backbone=backbone, pooling=pooling, lora={"enabled": lora}, max_length=120)
    model = NVEmbedModel.from_section(asked, trainable=True)
    if lora or pooling in ("latent", "self-attention"):
        stirred(model)
    folder = model.eval().save_pretrained(tmp_path / "out", instructions={"query": INSTRUCTION})
    plain, instructed = model.encode(TEXTS), model.encode(TEXTS, INSTRUCTION)
    assert furthest(plain, instructed) > 1e-3

    again = NVEmbedModel.from_pretrained(folder)
    assert furthest(again.encode(TEXTS), plain) < 1e-5
    assert furthest(again.encode(TEXTS, INSTRUCTION), instructed) < 1e-5
    assert again.max_length == 120
    assert furthest(by_sentence_transformers(folder, TEXTS), plain) < 1e-5
    assert furthest(by_sentence_transformers(folder, TEXTS, prompt=PROMPT), instructed) < 1e-5
    assert furthest(by_sentence_transformers(folder, TEXTS, prompt_name="query"), instructed) < 1e-5
    assert furthest(by_sentence_transformers(folder, TEXTS, prompt_name="document"), plain) < 1e-5
    assert furthest(by_transformers(folder, TEXTS, pooling), plain) < 1e-5


@pytest.mark.parametrize("space_before", [False, True])
def test_a_prompt_whose_last_piece_merges_with_the_text_is_masked_as_the_rule_says(
    section: Section, tmp_path: Path, space_before: bool
) -> None:
    """Sentence Transformers counts the prompt by itself, so it would drop the merged word with byte-level BPE."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    merges = [("w", "h"), ("wh", "o"), ("Ġ", "who"), ("Ġ", "Ġ")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # `<end>` and the merges take the places of bytes that no text here has, to fit the backbone's vocabulary
    tokens = ["<end>", *(one + other for one, other in merges), *alphabet][:259]
    backend = Tokenizer(BPE(vocab={token: place for place, token in enumerate(tokens)}, merges=merges))
    backend.add_special_tokens(["<end>"])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<end>")
    base = NVEmbedModel.from_section(section(lora={"enabled": False}))
    model = NVEmbedModel(base.backbone, tokenizer, base.spec, base.latent).eval()
    folder = model.save_pretrained(tmp_path / "out")

    texts = ["  who", " who", ""] if space_before else ["who", "who who", "x"]
    pooled = [sum(item.pool_mask) for item in model.tokenize(texts, INSTRUCTION)]
    assert pooled == ([3, 2, 1] if space_before else [2, 3, 2])
    assert furthest(by_sentence_transformers(folder, texts, prompt=PROMPT), model.encode(texts, INSTRUCTION)) < 1e-5
    assert furthest(by_sentence_transformers(folder, texts), model.encode(texts)) < 1e-5


def expected() -> list[dict]:
    return json.loads((DATA / "nvembed-tiny" / "expected.json").read_text())


def assert_published(model: NVEmbedModel) -> None:
    for case in expected():
        vectors = model.encode(case["texts"], case["instruction"], case["max_length"])
        assert furthest(vectors, np.array(case["embeddings"], dtype=np.float32)) < 1e-5, case["name"]


def test_the_published_layout_gives_the_published_vectors() -> None:
    assert_published(NVEmbedModel.from_pretrained(DATA / "nvembed-tiny"))


def test_a_task_sentence_and_its_published_prefix_are_the_same(tmp_path: Path) -> None:
    model = NVEmbedModel.from_pretrained(DATA / "nvembed-tiny")
    assert furthest(model.encode(["who"], INSTRUCTION), model.encode(["who"], PROMPT)) == 0


@pytest.mark.parametrize("layout", ["nv-embed", "sentence-transformers"])
def test_published_vectors_survive_a_round_trip_through_each_layout(layout: str, tmp_path: Path) -> None:
    model = NVEmbedModel.from_pretrained(DATA / "nvembed-tiny")
    folder = model.save_pretrained(tmp_path / "out", layout=layout)  # type: ignore[arg-type]
    assert_published(NVEmbedModel.from_pretrained(folder))
    published, written = (load_file(f / "model.safetensors") for f in (DATA / "nvembed-tiny", folder))
    assert written.keys() == published.keys()
    assert all(torch.equal(written[name], published[name]) for name in published)


@pytest.mark.parametrize(
    "route",
    [
        ["sentence-transformers"],
        ["nv-embed", "sentence-transformers"],
        ["sentence-transformers", "sentence-transformers"],
        ["sentence-transformers", "nv-embed", "sentence-transformers"],
    ],
)
def test_published_vectors_come_through_sentence_transformers_by_every_route_truncation_included(
    route: list, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = DATA / "nvembed-tiny"
    for stop, layout in enumerate(route):
        folder = NVEmbedModel.from_pretrained(folder).save_pretrained(tmp_path / str(stop), layout=layout)
        assert_published(NVEmbedModel.from_pretrained(folder))
    loaded = SentenceTransformer(str(folder), device="cpu")
    for case in expected():
        loaded.max_seq_length = case["max_length"]
        vectors = loaded.encode(case["texts"], prompt=case["instruction"] or None)
        assert furthest(vectors, np.array(case["embeddings"], dtype=np.float32)) < 1e-5, case["name"]


def test_sharded_and_half_precision_checkpoints_load(tmp_path: Path) -> None:
    from nvembed.modeling.checkpoint import save_pretrained

    model = NVEmbedModel.from_pretrained(DATA / "nvembed-tiny")
    sharded = save_pretrained(model, tmp_path / "sharded", "nv-embed", max_shard_size="200KB")
    assert (sharded / "model.safetensors.index.json").is_file()
    assert len(list(sharded.glob("model-*.safetensors"))) > 1
    assert_published(NVEmbedModel.from_pretrained(sharded))
    half = save_pretrained(model, tmp_path / "half", "nv-embed", dtype=torch.float16)
    assert all(tensor.dtype == torch.float16 for tensor in load_file(half / "model.safetensors").values())
    loaded = NVEmbedModel.from_pretrained(half)
    assert next(loaded.parameters()).dtype == torch.float32
    assert furthest(loaded.encode(["who"]), model.encode(["who"])) < 5e-3


def test_a_model_under_the_offset_rule_is_not_written_in_the_published_layout(section: Section, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="published text rule"):
        NVEmbedModel.from_section(section()).save_pretrained(tmp_path / "out", layout="nv-embed")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def saved(section: Section, tmp_path: Path) -> Path:
    return NVEmbedModel.from_section(section()).save_pretrained(tmp_path / "saved")


def test_what_is_no_checkpoint_is_refused(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no config\.json"):
        NVEmbedModel.from_pretrained(tmp_path / "empty")
    with pytest.raises(UserError, match="no such folder"):
        NVEmbedModel.from_pretrained(tmp_path / "absent")
    (saved / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="holds a 'bert' model"):
        NVEmbedModel.from_pretrained(saved)


def test_pickled_weights_are_refused(saved: Path) -> None:
    torch.save(load_file(saved / "model.safetensors"), saved / "pytorch_model.bin")
    (saved / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"pytorch_model\.bin is a pickle"):
        NVEmbedModel.from_pretrained(saved)


def test_a_truncated_file_is_refused(saved: Path) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(UserError, match="cannot be read"):
        NVEmbedModel.from_pretrained(saved)


def test_a_tensor_that_is_missing_unknown_or_of_another_shape_is_named(saved: Path) -> None:
    from safetensors.torch import save_file

    file, metadata = saved / "model.safetensors", {"format": "pt"}
    whole = load_file(file)
    latents = "latent_attention_model.latents"
    save_file({name: tensor for name, tensor in whole.items() if name != latents}, file, metadata)
    with pytest.raises(UserError, match=f"tensor {latents} is missing"):
        NVEmbedModel.from_pretrained(saved)
    save_file({**whole, "latent_attention_model.extra": torch.zeros(1)}, file, metadata)
    with pytest.raises(UserError, match=r"tensor latent_attention_model\.extra is unknown"):
        NVEmbedModel.from_pretrained(saved)
    save_file({**whole, latents: torch.zeros(7, 32)}, file, metadata)
    with pytest.raises(UserError, match=rf"tensor {latents} has shape \(7, 32\), not \(8, 32\)"):
        NVEmbedModel.from_pretrained(saved)


@pytest.mark.parametrize("order", ["import nvembed, transformers", "import transformers, nvembed"])
def test_auto_classes_know_the_model_after_import_nvembed_in_either_order(saved: Path, order: str) -> None:
    code = (
        f"{order}\n"
        "from transformers import AutoConfig, AutoModel, AutoTokenizer\n"
        f"folder = {str(saved)!r}\n"
        "assert AutoConfig.from_pretrained(folder).model_type == 'nvembed'\n"
        "tokens = AutoTokenizer.from_pretrained(folder)(['who'], return_tensors='pt')\n"
        "assert AutoModel.from_pretrained(folder)(**tokens).last_hidden_state.shape == (1, 5, 32)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_auto_classes_that_were_loaded_before_import_nvembed_know_the_model_too(saved: Path) -> None:
    code = (
        "from transformers import AutoModel, AutoTokenizer\n"
        "import nvembed\n"
        f"AutoModel.from_pretrained({str(saved)!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_import_nvembed_leaves_torch_and_transformers_alone() -> None:
    code = "import sys, nvembed; print(sorted({'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
