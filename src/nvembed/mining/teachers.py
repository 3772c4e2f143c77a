"""The teachers that a recipe names, checked, loaded and set on a pool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from nvembed.mining.dense import DenseTeacher, load_teacher
from nvembed.mining.pools import Pool
from nvembed.mining.rescoring import CrossEncoder, check_cross_encoder
from nvembed.mining.scorers import LexicalTeacher, Rescored
from nvembed.mining.selection import Scorer
from nvembed.mining.shards import Neighbours

if TYPE_CHECKING:
    from nvembed.modeling import NVEmbedModel
    from nvembed.recipe import Mining, Resources
    from nvembed.recipe.mining import Teacher


def check_mining(mining: Mining) -> Mining:
    """The section with the digests of its models written in, so that a changed model is another section.

    Raises:
        UserError: a model that cannot be had, or is too short for its `max_length`.
    """
    if not mining.enabled:
        return mining
    teachers = [check_teacher(teacher) for teacher in mining.teachers]
    encoder = mining.cross_encoder
    if encoder is not None:
        encoder = encoder.model_copy(update={"digest": check_cross_encoder(encoder)})
    return mining.model_copy(update={"teacher": teachers[0], "more_teachers": teachers[1:], "cross_encoder": encoder})


def check_teacher(teacher: Teacher) -> Teacher:
    """A teacher with its model's digest written in. Raises UserError as `check_mining` does."""
    from nvembed.modeling import backbone_digest, check_section

    if teacher.kind != "model":
        return teacher
    check_section(teacher)
    return teacher.model_copy(update={"digest": backbone_digest(teacher)})


class Teachers:
    """The models of a section, each loaded once, whatever the number of pools."""

    def __init__(self, mining: Mining, resources: Resources, own: NVEmbedModel | None = None) -> None:
        """`own`: a model of this project that takes all other teachers' place."""
        self._mining, self._own = mining, own
        self.device = device_of(resources)
        self._models: dict[int, NVEmbedModel] = {}

    def on(self, pool: Pool, shards: Sequence[Path] = ()) -> list[Scorer]:
        """Every teacher on one pool. Embedding happens here. `shards`: folders of what shards found already."""
        if self._own is not None:
            return [DenseTeacher(self._own, None, self._mining, pool, self.device)]
        return [self._scorer(number, pool, shards) for number in range(len(self._mining.teachers))]

    def dense_on(self, pool: Pool, share: tuple[int, int]) -> Iterator[tuple[int, DenseTeacher]]:
        """The teachers that embed, with their numbers, on a share of a pool."""
        for number, teacher in enumerate(self._mining.teachers):
            if teacher.kind == "model":
                yield number, DenseTeacher(self._model(number), teacher, self._mining, pool, self.device, share=share)

    def _scorer(self, number: int, pool: Pool, shards: Sequence[Path]) -> Scorer:
        teacher = self._mining.teachers[number]
        if teacher.kind == "bm25":
            scorer: Scorer = LexicalTeacher(pool)
        else:
            known = Neighbours(shards, pool, number)
            scorer = DenseTeacher(self._model(number), teacher, self._mining, pool, self.device, known=known)
        return Rescored(scorer, self._encoder, pool) if self._mining.cross_encoder is not None else scorer

    @cached_property
    def _encoder(self) -> CrossEncoder:
        asked = self._mining.cross_encoder
        assert asked is not None
        return CrossEncoder(
            asked.backbone,
            revision=asked.revision,
            max_length=asked.max_length,
            batch_tokens=self._mining.batch_tokens,
            device=self.device,
            trust_remote_code=asked.trust_remote_code,
        )

    def _model(self, number: int) -> NVEmbedModel:
        if number not in self._models:
            self._models[number] = load_teacher(self._mining.teachers[number], self.device)
        return self._models[number]


def device_of(resources: Resources) -> str:
    """Where models run: the section's device, or the GPU if there is one."""
    import torch

    if resources.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return resources.device
