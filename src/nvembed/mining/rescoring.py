"""Scores by a cross-encoder, which reads query and document together: slower than vectors, and a better judge."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch

from nvembed.core.digests import digest_json
from nvembed.core.errors import UserError
from nvembed.core.progress import Progress
from nvembed.modeling.backbone import check_whole, load_tokenizer, quiet, refuse_pickles
from nvembed.modeling.batching import Precision, autocast, resolve_precision, token_batches
from nvembed.modeling.checks import max_positions
from nvembed.modeling.encoder import is_out_of_memory
from nvembed.modeling.source import Source, explained, find_source, load_config, source_digest

if TYPE_CHECKING:
    from nvembed import recipe

BATCH_TOKENS = 16384
PAIR_BLOCK = 4096


class CrossEncoder:
    """A sequence classifier of transformers with one label, whose logit says how well a document answers a query.

    Weights are float32; `precision` is what they are computed in (`auto`: bf16 where the device is faster at it).
    """

    def __init__(
        self,
        backbone: str,
        *,
        revision: str | None = None,
        max_length: int = 512,
        batch_tokens: int = BATCH_TOKENS,
        device: str = "cpu",
        precision: Precision = "auto",
        trust_remote_code: bool = False,
    ) -> None:
        """Load the model.

        Args:
            backbone: local folder, hub id or `package:<module>`, in safetensors. revision: the hub's; pin it.
            max_length: tokens of a pair; of what is longer the longer text is cut first.
            batch_tokens: tokens of a batch, padding included; a batch that does not fit into memory is halved.

        Raises:
            UserError: there is no such model, it has no head with one label, its weights are pickles or not whole, it
                has fewer than `max_length` positions, or it wants code of its own and `trust_remote_code` is false.
        """
        from transformers import AutoModelForSequenceClassification

        self.max_length, self.batch_tokens, self.device = max_length, batch_tokens, torch.device(device)
        self.precision = resolve_precision(precision, self.device)
        self.where = f"cross-encoder {backbone!r}"
        with _in_our_words():
            source = _find(backbone, revision, max_length, trust_remote_code)
            self.tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
            with explained(source), quiet():
                model, info = AutoModelForSequenceClassification.from_pretrained(
                    source.location,
                    dtype=torch.float32,
                    use_safetensors=True,
                    trust_remote_code=trust_remote_code,
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                    **source.load_arguments(),
                )
            check_whole(info, self.where)
            self._files = source_digest(source, trust_remote_code=trust_remote_code)
        if model.config.pad_token_id is None:  # by which a decoder's head finds the last token of a text
            model.config.pad_token_id = self.tokenizer.pad_token_id
        self._model = model.eval().requires_grad_(False).to(self.device)

    def fingerprint(self) -> str:
        """Digest of the model's files and of what else decides a score: for caches."""
        return digest_json({"files": self._files, "max_length": self.max_length, "precision": self.precision})

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
        """Scores of query i with document i, in the order given, equal pairs computed once.

        A score is the logit's sigmoid, whatever the model's card applies. Logits are unbounded and of either sign, so a
        share of the positive's would mean nothing; between 0 and 1 every rule of mining keeps its meaning.

        Returns:
            (n,) float32, from 0 to 1.

        Raises:
            UserError: a score is no number, or a single pair does not fit into memory.
        """
        places: dict[tuple[str, str], int] = {}
        rows = [places.setdefault(pair, len(places)) for pair in zip(queries, documents, strict=True)]
        logits = self._logits(list(places))
        if not np.isfinite(logits).all():
            query, document = list(places)[int(np.argmin(np.isfinite(logits)))]
            raise UserError(
                f"{self.where}: the score of {query[:60]!r} and {document[:60]!r} is no number; "
                f"check the model, or compute in float32 (now {self.precision})"
            )
        return (1 / (1 + np.exp(-logits))).astype(np.float32)[rows]

    def _logits(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        """(n,) float64."""
        tokens = _Tokens(self._tokenize(pairs))
        logits = np.empty(len(pairs), dtype=np.float64)
        progress = Progress("re-scoring", len(pairs))
        done = 0
        with torch.inference_mode(), autocast(self.precision, self.device):
            for batch in token_batches(tokens.lengths.tolist(), self.batch_tokens):
                logits[batch] = self._forward(tokens, batch)
                done += len(batch)
                progress.update(done)
        return logits

    def _forward(self, tokens: _Tokens, batch: list[int]) -> np.ndarray:
        """(batch,) logits, in halves where memory runs out."""
        try:
            inputs = tokens.collate(batch, self.tokenizer.pad_token_id)
            output = self._model(**{name: tensor.to(self.device) for name, tensor in inputs.items()})
            return output.logits[:, 0].double().cpu().numpy()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise UserError(
                    f"{self.where}: a single pair of {tokens.lengths[batch[0]]} tokens does not fit into the memory of "
                    f"{self.device}; lower max_length, or take a device with more memory"
                ) from error
        half = len(batch) // 2  # out here the failed batch's tensors are gone
        return np.concatenate([self._forward(tokens, batch[:half]), self._forward(tokens, batch[half:])])

    def _tokenize(self, pairs: list[tuple[str, str]]) -> Iterator[dict[str, list[list[int]]]]:
        for start in range(0, len(pairs), PAIR_BLOCK):
            queries, documents = zip(*pairs[start : start + PAIR_BLOCK], strict=True)
            yield self.tokenizer(
                list(queries),
                list(documents),
                truncation="longest_first",
                max_length=self.max_length,
                return_attention_mask=False,
            )


def check_cross_encoder(section: recipe.CrossEncoder) -> str:
    """Digest of the files that a recipe's section names; no weights are read.

    Raises UserError for what `CrossEncoder` refuses, as far as it stands in the model's configuration.
    """
    with _in_our_words():
        source = _find(section.backbone, section.revision, section.max_length, section.trust_remote_code)
        return source_digest(source, trust_remote_code=section.trust_remote_code)


def _find(backbone: str, revision: str | None, max_length: int, trust_remote_code: bool) -> Source:
    where = f"cross-encoder {backbone!r}"
    source = find_source(backbone, revision)
    if source.kind == "random" or source.gguf:
        raise UserError(f"{where}: brings no head that scores; give a sequence classifier's folder or id")
    config = load_config(source, trust_remote_code=trust_remote_code)
    if config.num_labels != 1:
        raise UserError(f"{where}: scores {config.num_labels} labels; re-scoring needs a model with one (num_labels 1)")
    positions = max_positions(config)
    if positions is not None and max_length > positions:
        raise UserError(
            f"{where}: max_length is {max_length}, but it has only {positions} positions; set it to {positions} or less"
        )
    refuse_pickles(source)
    return source


class _Tokens:
    """What a tokenizer gives for many pairs, in flat arrays: lists of Python integers take ten times the memory.

    Attributes:
        lengths: (n,) int64, tokens of each pair.
    """

    def __init__(self, blocks: Iterator[dict[str, list[list[int]]]]) -> None:
        lengths = [np.empty(0, np.int64)]
        columns: dict[str, list[np.ndarray]] = {}
        for block in blocks:
            sizes = np.array([len(ids) for ids in block["input_ids"]], dtype=np.int64)
            lengths.append(sizes)
            for name, rows in block.items():
                flat = np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(sizes.sum()))
                columns.setdefault(name, []).append(flat)
        self.lengths = np.concatenate(lengths)
        self._ends = np.cumsum(self.lengths)
        self._columns = {name: np.concatenate(parts) for name, parts in columns.items()}

    def collate(self, batch: list[int], pad_token_id: int) -> dict[str, torch.Tensor]:
        """The model's inputs, each (pairs, longest) int64, padded on the right."""
        lengths = self.lengths[batch]
        attended = np.arange(lengths.max()) < lengths[:, None]
        inputs = {"attention_mask": torch.from_numpy(attended.astype(np.int64))}
        for name, flat in self._columns.items():
            padded = np.full(attended.shape, pad_token_id if name == "input_ids" else 0, dtype=np.int64)
            padded[attended] = np.concatenate([flat[self._ends[i] - self.lengths[i] : self._ends[i]] for i in batch])
            inputs[name] = torch.from_numpy(padded)
        return inputs


@contextlib.contextmanager
def _in_our_words() -> Iterator[None]:
    """A loader's message about `model.backbone`, said of the cross-encoder."""
    try:
        yield
    except UserError as error:
        said = str(error).replace("model.backbone", "cross-encoder")
        said = said.replace("model.trust_remote_code", "its trust_remote_code")
        raise UserError(said) from error.__cause__
