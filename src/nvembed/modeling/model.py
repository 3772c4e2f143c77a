"""`NVEmbedModel`: how an embedding model is made, asked for vectors of texts, and saved; `embedder` computes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from nvembed.core.digests import digest_json
from nvembed.modeling.assemble import add_adapters, parts_of_section
from nvembed.modeling.card import from_card
from nvembed.modeling.checks import backbone_digest
from nvembed.modeling.embedder import Embedder
from nvembed.modeling.plan import BATCH_TOKENS, EncodePrecision

if TYPE_CHECKING:
    import numpy as np

    from nvembed.recipe import Model


class NVEmbedModel(Embedder):
    """A text embedding model.

    Make one with `from_section` (a recipe's model section), `from_pretrained` (a saved model) or `from_card` (an
    untrained backbone as its own card says).

    Attributes (beside `Embedder`'s):
        query_prefix, document_prefix: what a card puts before texts; plain text, pooled like the rest; empty but for
            `from_card`. The caller puts them there.
    """

    query_prefix: str = ""
    document_prefix: str = ""

    @classmethod
    def from_section(
        cls,
        model: Model,
        adapter: Path | str | None = None,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        trainable: bool = False,
    ) -> NVEmbedModel:
        """Build the model that a recipe's section asks for, with the trained tensors in `adapter` if given.

        `trainable` leaves it in train mode with gradients on what the section trains (adapters or the whole
        backbone, and the pooling's block or adapters on it), its frozen backbone in 4 bits if the section says so;
        otherwise it is in eval mode, nothing has gradients, and all weights are the original ones. New weights are
        drawn from the section's seed; the caller's random state is left as it was.

        Raises UserError for a backbone that cannot be had and for an adapter of another section.
        """
        quantization = model.quantization if trainable else "none"
        parts = parts_of_section(model, dtype, quantization=quantization, device=device)
        add_adapters(parts, model)
        built = cls(*parts)
        built.origin = {"backbone": model.backbone, "backbone_digest": backbone_digest(model)}
        if model.revision:
            built.origin["revision"] = model.revision
        built.trained_names = frozenset(name for name, parameter in built.named_parameters() if parameter.requires_grad)
        if adapter is not None:
            built.load_trainable(adapter)
        built.to(device)
        if not trainable:
            built.requires_grad_(False)
        return built.train(trainable)

    @classmethod
    def from_pretrained(
        cls,
        path: Path | str,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        inference_only: bool = False,
        base: str | None = None,
    ) -> NVEmbedModel:
        """A saved model, from a folder or the hub: this project's layout or the published one, in eval mode.

        `dtype` None is float32 on a CPU and the stored one elsewhere. `inference_only` drops what encoding does not
        need once the latent block is folded (half a billion parameters of the published model); the model then
        refuses to be saved or trained. A folder saved with `adapter_only` brings its base, from `base` if it lies
        elsewhere now; its adapter stays unmerged. No remote code is run and no pickle is read.

        Raises UserError for what is no such model or is damaged, and for a base that an adapter was not trained on.
        """
        from nvembed.modeling.adapter_folder import is_adapter_folder, load_adapter_folder
        from nvembed.modeling.checkpoint import load_parts

        if dtype is None and torch.device(device).type == "cpu":
            dtype = torch.float32
        if is_adapter_folder(path):
            parts, origin = load_adapter_folder(path, base=base, dtype=dtype)
        else:
            parts, origin = load_parts(path, revision=revision, dtype=dtype), {}
        built = cls(*parts)
        built.origin = origin
        built.requires_grad_(False).eval().to(device)
        if inference_only and built.latent is not None:
            built.latent.drop_unfolded()
        return built

    def save_pretrained(
        self,
        folder: Path | str,
        layout: Literal["sentence-transformers", "nv-embed"] = "sentence-transformers",
        *,
        instructions: Mapping[str, str] | None = None,
        dtype: torch.dtype | str | None = None,
        adapter_only: bool = False,
        check: bool = True,
    ) -> Path:
        """Write the whole model, adapters merged, as one folder, whole or not at all.

        The folder loads by `SentenceTransformer`, `transformers.AutoModel` (both after `import nvembed`, without
        remote code) and `from_pretrained`. `instructions` are prompts by name, as task sentences; `dtype` is that of
        the stored weights (float32, bfloat16, float16; None: as they are). `adapter_only` writes the backbone's
        adapter as peft does and the pooling's block, and names the base; only `from_pretrained` and peft load that.

        `check` loads what was written and compares vectors before it takes its place; it needs memory for the model
        once more, in float32. Raises UserError if `layout="nv-embed"`, the published one, cannot hold this model, and
        RuntimeError, leaving nothing, if the check finds other vectors.
        """
        from nvembed.modeling.checkpoint import save_pretrained

        return save_pretrained(
            self, folder, layout, instructions=instructions, dtype=dtype, adapter_only=adapter_only, check=check
        )

    from_card = classmethod(from_card)

    def encode(
        self,
        texts: Iterable[str],
        instruction: str = "",
        max_length: int | None = None,
        *,
        dimensions: int | None = None,
        precision: EncodePrecision | None = None,
        batch_tokens: int = BATCH_TOKENS,
        devices: Sequence[str] | None = None,
        label: str = "encoding",
    ) -> np.ndarray:
        """Vectors of texts, in the order given: float32 (n, dim), rows of norm 1.

        Args:
            instruction: the task sentence alone, or a whole prefix of the template's shape.
            max_length: tokens of a text; None: the model's own.
            dimensions: only the first so many, again of norm 1.
            precision: what is computed in: None is float32 on a CPU and the weights' own dtype on a GPU, `auto` bf16
                where the device is faster at it. `int8` and `binary` are computed as None and stored smaller: int8
                (n, dim), uint8 (n, ⌈dim / 8⌉); see `modeling.vectors`.
            batch_tokens: tokens of a batch, padding included; halved where memory runs out.
            devices: one process each (`["cuda:0", "cuda:1"]`); None: this process, where the model lies.
            label: what the progress line says.

        Raises UserError for what is not a string, for an instruction that leaves no room for text, and for a single
        text that does not fit into memory.
        """
        from nvembed.modeling.encoder import encode_texts

        return encode_texts(
            self,
            texts,
            instruction=instruction,
            max_length=max_length,
            dimensions=dimensions,
            precision=precision,
            batch_tokens=batch_tokens,
            devices=devices,
            label=label,
        )

    def save_trainable(self, path: Path | str) -> Path:
        """Write every trained tensor to a `.safetensors` file, or to `trainable.safetensors` in a folder."""
        from nvembed.modeling.trainable import save_trainable

        return save_trainable(self, path)

    def load_trainable(self, path: Path | str) -> None:
        """Read what `save_trainable` wrote. Raises UserError if it belongs to another section, naming the tensor."""
        from nvembed.modeling.trainable import load_trainable

        load_trainable(self, path)

    def fingerprint(self) -> str:
        """Digest of weights, pooling and text rule: equal fingerprints give equal vectors. For caches."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        heads = [block.num_heads for block in (self.spec.latent, self.spec.self_attention) if block is not None]
        return digest_json([digest.hexdigest(), self.rule.digest(), self.spec.pooling, self.spec.attention, *heads])
