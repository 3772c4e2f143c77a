"""What cannot be loaded or encoded is refused in one line that says what, where and how to mend it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from modeling_helpers import DATA, TEXTS, furthest
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from nvembed import NVEmbedModel
from nvembed.core.errors import UserError
from nvembed.modeling.checkpoint import save_pretrained
from nvembed.modeling.checks import check_section
from nvembed.modeling.hf_model import NVEmbedTextModel
from nvembed.modeling.random_backbone import byte_tokenizer, random_model
from nvembed.recipe import Model

Section = Callable[..., Model]


def refused(act: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / "nvembed-tiny", tmp_path / "published"))


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    folder = tmp_path / "backbone"
    random_model("mistral-tiny").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config": {"model_type": "homemade"}}, r"config\.json cannot be used .*homemade"),
        ({"text_config": "mistral"}, r"config\.json cannot be used"),
        ({"latent_attention_config": {"num_latents_value": "many"}}, "num_latents is 'many', not a positive whole"),
        ({"latent_attention_config": {"num_cross_heads": 0}}, "num_heads is 0, not a positive whole number"),
        ({"latent_attention_config": {"output_normalize": False}}, "output_normalize is false; only true"),
        ({"mask_type": "c"}, "mask_type is 'c'; only 'b' is supported"),
        ({"is_mask_instruction": False}, "is_mask_instruction is False; only True is supported"),
        ({"nvembed": {"poolings": "mean"}}, "unknown keys poolings; .* by a later version"),
        ({"nvembed": {"pooling": "attentive"}}, "pooling 'attentive' is unknown; .* by a later version"),
        ({"nvembed": {"pooling": "latent", "latent": {"heads": 3}}}, "unknown key heads; .* by a later version"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(published: Path, changes: dict, message: str) -> None:
    change_config(published, **changes)
    refused(lambda: NVEmbedModel.from_pretrained(published), message)


@pytest.mark.parametrize(("text", "message"), [("{", "not a valid JSON"), ("[]", "holds no object")])
def test_a_configuration_that_is_none_is_refused(published: Path, text: str, message: str) -> None:
    (published / "config.json").write_text(text)
    refused(lambda: NVEmbedModel.from_pretrained(published), message)


def test_a_file_is_no_folder(published: Path) -> None:
    refused(lambda: NVEmbedModel.from_pretrained(published / "model.safetensors"), "no such folder; check the path")


def test_a_folder_without_weights_or_with_an_empty_file_is_refused(published: Path) -> None:
    (published / "model.safetensors").write_bytes(b"")
    refused(lambda: NVEmbedModel.from_pretrained(published), "weights cannot be read")
    (published / "model.safetensors").unlink()
    refused(lambda: NVEmbedModel.from_pretrained(published), r"holds no model\.safetensors")


@pytest.mark.parametrize("how", ["gone", "truncated"])
def test_a_shard_that_is_gone_or_truncated_is_refused(published: Path, tmp_path: Path, how: str) -> None:
    model = NVEmbedModel.from_pretrained(published)
    folder = save_pretrained(model, tmp_path / "sharded", "nv-embed", max_shard_size="200KB")
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    if how == "gone":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-100])
    refused(lambda: NVEmbedModel.from_pretrained(folder), "weights cannot be read")


def test_a_folder_without_its_tokenizer_is_refused(published: Path) -> None:
    (published / "tokenizer.json").write_text("{}")
    refused(lambda: NVEmbedModel.from_pretrained(published), "tokenizer cannot be loaded")
    (published / "tokenizer.json").unlink()
    refused(lambda: NVEmbedModel.from_pretrained(published), "holds no tokenizer")


def test_a_backbones_damaged_weights_are_refused_and_the_tensor_named(section: Section, backbone: Path) -> None:
    def build() -> NVEmbedModel:
        return NVEmbedModel.from_section(section(backbone=str(backbone)))

    file, name = backbone / "model.safetensors", "layers.0.mlp.up_proj.weight"
    whole = load_file(file)
    build()
    rest = {key: tensor for key, tensor in whole.items() if key != name}
    save_file(rest, file, {"format": "pt"})
    refused(build, f"tensor {name} is missing; the checkpoint is not whole")
    save_file({**rest, name: torch.zeros(3, 32)}, file, {"format": "pt"})
    refused(build, rf"tensor {name} has shape \(3, 32\), not \(64, 32\)")
    save_file(whole, file, {"format": "pt"})
    file.write_bytes(file.read_bytes()[:-100])
    refused(build, "model.backbone .* cannot be loaded")


SIZELESS = {"model_type": "mistral", "architectures": ["MistralModel"]}


@pytest.mark.parametrize("config", [SIZELESS, {"hidden_size": 4096}])
def test_a_configuration_of_another_size_than_the_weights_is_refused_before_anything_is_built(
    section: Section, backbone: Path, monkeypatch: pytest.MonkeyPatch, config: dict
) -> None:
    """Without sizes transformers takes Mistral's 7 billion parameters for granted: 28 GB."""
    if config is SIZELESS:
        (backbone / "config.json").write_text(json.dumps(config))
    else:
        change_config(backbone, **config)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was built")

    monkeypatch.setattr(AutoModel, "from_pretrained", never)
    before = psutil.Process().memory_info().rss
    asked = section(backbone=str(backbone))
    vocabulary = 32000 if config is SIZELESS else 259
    message = rf"tensor embed_tokens\.weight has shape \(259, 32\), not \({vocabulary}, 4096\); weights and config"
    refused(lambda: check_section(asked), message)
    refused(lambda: NVEmbedModel.from_section(asked), message)
    refused(lambda: NVEmbedModel.from_card(str(backbone)), message)
    assert psutil.Process().memory_info().rss - before < 2**30


def test_a_saved_models_configuration_of_another_size_is_refused_before_anything_is_built(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((published / "config.json").read_text())
    change_config(published, text_config={**config["text_config"], "hidden_size": 4096})
    monkeypatch.setattr(NVEmbedTextModel, "from_pretrained", None)
    refused(
        lambda: NVEmbedModel.from_pretrained(published),
        r"tensor embedding_model\.embed_tokens\.weight has shape \(\d+, 64\), not \(\d+, 4096\)",
    )


def test_a_language_models_head_is_left_out_without_complaint(section: Section, tmp_path: Path) -> None:
    from transformers import MistralForCausalLM

    folder = tmp_path / "with-head"
    bare = random_model("mistral-tiny")
    MistralForCausalLM(bare.config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    assert "lm_head.weight" in load_file(folder / "model.safetensors")
    assert NVEmbedModel.from_section(section(backbone=str(folder))).encode(["who"]).shape == (1, 32)


def test_a_backbone_without_its_tokenizer_is_refused(section: Section, backbone: Path) -> None:
    (backbone / "tokenizer.json").unlink()
    refused(lambda: NVEmbedModel.from_section(section(backbone=str(backbone))), "holds no tokenizer")


HOMEMADE = """
from transformers import BertConfig, BertModel

class HomemadeConfig(BertConfig):
    model_type = "homemade"

class HomemadeModel(BertModel):
    config_class = HomemadeConfig
"""


@pytest.fixture
def homemade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with code of its own, a Bert under another name; its code leaves a trace when it is run."""
    from transformers import BertConfig, BertModel

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "homemade"
    torch.manual_seed(2)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=259, **sizes)).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    change_config(
        folder,
        model_type="homemade",
        auto_map={"AutoConfig": "homemade.HomemadeConfig", "AutoModel": "homemade.HomemadeModel"},
    )
    trace = f"open({str(tmp_path / 'was_run')!r}, 'w').close()\n"
    (folder / "homemade.py").write_text(trace + HOMEMADE)
    return folder


def test_a_model_with_code_of_its_own_is_refused_unless_trusted(
    section: Section, homemade: Path, tmp_path: Path
) -> None:
    folder, trace = str(homemade), tmp_path / "was_run"
    refused(
        lambda: NVEmbedModel.from_pretrained(folder), "NVEmbedModel.from_card .*trust_remote_code=True if you trust"
    )
    refused(lambda: NVEmbedModel.from_card(folder), "code of its own; set .*trust_remote_code=true if you trust it")
    refused(lambda: NVEmbedModel.from_section(section(backbone=folder)), "code of its own")
    assert not trace.exists()
    allowed = NVEmbedModel.from_card(folder, trust_remote_code=True)
    assert trace.exists()
    tokens = AutoTokenizer.from_pretrained(folder)(["who"], return_tensors="pt")
    with torch.no_grad():
        model = AutoModel.from_pretrained(folder, trust_remote_code=True)
        mean = model(**tokens).last_hidden_state[0].mean(0)
    assert furthest(allowed.encode(["who"]), torch.nn.functional.normalize(mean, dim=0).numpy()[None]) < 1e-6


def test_a_published_checkpoint_runs_no_code_of_its_own_even_where_that_is_allowed(
    section: Section, published: Path
) -> None:
    for name in ("configuration_nvembed", "modeling_nvembed"):
        (published / f"{name}.py").write_text("raise SystemExit('remote code was run')\n")
    expected = NVEmbedModel.from_pretrained(published).encode(TEXTS, max_length=96)
    asked = section(backbone=str(published), trust_remote_code=True, max_length=96)
    assert furthest(NVEmbedModel.from_section(asked).encode(TEXTS), expected) < 1e-6
    assert (
        furthest(NVEmbedModel.from_card(str(published), trust_remote_code=True, max_length=96).encode(TEXTS), expected)
        == 0
    )


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", None], r"texts\[1\]: is NoneType"),
        ([b"a"], r"texts\[0\]: is bytes"),
        ("a", "got one str; give a list of strings"),
        (b"a", "got one bytes"),
        (None, "got one NoneType"),
        ({"a": 1}, "got one dict"),
        (["a", "\ud800"], r"texts\[1\]: is not valid Unicode"),
    ],
)
def test_what_is_no_list_of_texts_is_not_encoded(published: Path, texts: Any, message: str) -> None:
    refused(lambda: NVEmbedModel.from_pretrained(published).encode(texts), message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"instruction": "find it " * 300}, r"max_length 512: the instruction takes \d+ tokens, .* raise max_length"),
        ({"instruction": "find it", "max_length": 4}, "max_length 4: the instruction takes 7 tokens"),
        ({"instruction": None}, "instruction: is NoneType"),
        ({"max_length": 0}, "max_length 0: give a whole number of tokens, 1 or more"),
        ({"max_length": "16"}, "max_length '16': give a whole number"),
    ],
)
def test_options_that_leave_no_room_are_refused(published: Path, options: dict, message: str) -> None:
    model = NVEmbedModel.from_pretrained(published)
    for texts in (["who"], []):
        refused(lambda texts=texts: model.encode(texts, **options), message)


def test_no_texts_give_no_vectors(published: Path) -> None:
    vectors = NVEmbedModel.from_pretrained(published).encode([])
    assert vectors.shape == (0, 64)
    assert vectors.dtype.name == "float32"
