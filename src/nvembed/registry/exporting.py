"""A trained model as one folder that four loaders read alike, checked before it leaves (`modeling.export_check`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import Manifest, output_folder, read_manifest, write_file, write_manifest
from nvembed.core.digests import digest_file, digest_json
from nvembed.registry.card import model_card

if TYPE_CHECKING:
    from nvembed.recipe import Model


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
    from nvembed.modeling.checkpoint import write_model

    trained = read_manifest(adapter, kind="adapter")
    loaded = NVEmbedModel.from_section(model, adapter)
    with output_folder(out) as folder:
        differences = write_model(loaded, folder, instructions=dict(card.get("instructions") or {}))
        write_file(folder / "README.md", model_card(model, loaded.dim, card))
        return write_manifest(
            folder,
            kind="model",
            section=model.model_dump(mode="json"),
            inputs={"adapter": trained.content, "backbone": str(trained.extra.get("backbone_digest") or "")},
            licenses=dict(card.get("licenses") or {}),
            extra={
                "model_digest": model_digest(model, adapter),
                "dim": loaded.dim,
                "differences": differences,
                "card": digest_json(card),
            },
        )
