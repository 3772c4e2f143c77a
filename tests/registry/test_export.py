"""An exported model: what is in the folder, who can load it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from registry_support import MODEL
from safetensors.torch import load_file, save_file

from nvembed.core.artifacts import read_manifest
from nvembed.core.errors import UserError
from nvembed.modeling import NVEmbedModel
from nvembed.modeling.export_check import check_equal
from nvembed.registry import export, model_digest

CARD = {
    "name": "nvembed-tiny",
    "licenses": {"python docs": "PSF-2.0"},
    "counts": {"train_examples": 1234},
    "instructions": {"retrieval": "Given a summary, retrieve the documentation"},
    "table": "| model | nDCG@10 |\n|---|---|\n| stage 2 | 0.58 [0.55, 0.61] |",
    "verdict": ["Retrieval stands at +0.04."],
    "lineage": {"pipeline run": "run-7"},
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, adapters: Callable[[int], Path]) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    export(MODEL, adapters(1), folder, CARD)
    return folder


def test_every_loader_gives_the_trained_models_vectors(exported: Path, adapters: Callable[[int], Path]) -> None:
    manifest = read_manifest(exported, kind="model", verify=True)
    assert set(manifest.extra["differences"]) == {"NVEmbedModel", "SentenceTransformer", "AutoModel"}
    assert max(manifest.extra["differences"].values()) <= 1e-5
    differences = check_equal(NVEmbedModel.from_section(MODEL, adapters(1)), exported)
    assert max(differences.values()) <= 1e-5


def test_weights_that_changed_on_the_way_are_noticed(
    exported: Path, tmp_path: Path, adapters: Callable[[int], Path]
) -> None:
    import shutil

    damaged = shutil.copytree(exported, tmp_path / "model")
    weights = load_file(damaged / "model.safetensors")
    name = next(name for name in sorted(weights) if name.startswith("latent_attention_model"))
    weights[name] = weights[name] + 0.01
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="gives other vectors"):
        check_equal(NVEmbedModel.from_section(MODEL, adapters(1)), damaged)


def test_the_card_says_what_it_is_from_what_and_how_good(exported: Path) -> None:
    text = (exported / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    head = yaml.safe_load(front)
    assert head["license"] == "apache-2.0" and head["library_name"] == "sentence-transformers"
    assert head["datasets"] == ["python docs"]
    for said in ("| python docs | PSF-2.0 |", "0.58 [0.55, 0.61]", "Given a summary, retrieve", "1,234 train examples"):
        assert said in body
    for loader in (
        "NVEmbedModel.from_pretrained",
        "SentenceTransformer(",
        "AutoModel.from_pretrained",
        "mlflow.pyfunc",
    ):
        assert loader in body


def test_instructions_are_kept_as_prompts_by_name(exported: Path) -> None:
    from sentence_transformers import SentenceTransformer

    import nvembed  # noqa: F401 - makes the model type known

    model = SentenceTransformer(str(exported), device="cpu")
    assert model.prompts["retrieval"] == "Instruct: Given a summary, retrieve the documentation\nQuery: "


def test_nothing_in_the_folder_is_a_pickle(exported: Path) -> None:
    assert not [file for file in exported.rglob("*") if file.suffix in (".bin", ".pt", ".pkl", ".pth")]


def test_a_model_is_named_by_its_trained_tensors(adapters: Callable[[int], Path]) -> None:
    assert model_digest(MODEL, adapters(1)) == model_digest(MODEL, adapters(1))
    assert model_digest(MODEL, adapters(1)) != model_digest(MODEL, adapters(2))
    assert model_digest(MODEL, adapters(1)) != model_digest(MODEL.model_copy(update={"max_length": 48}), adapters(1))


def test_an_adapter_of_another_section_is_refused_and_leaves_nothing(
    tmp_path: Path, adapters: Callable[[int], Path]
) -> None:
    lora = MODEL.lora.model_copy(update={"rank": 8})
    with pytest.raises(UserError):
        export(MODEL.model_copy(update={"lora": lora}), adapters(1), tmp_path / "model", CARD)
    assert list(tmp_path.iterdir()) == []
