"""Training examples without the texts that a model will be judged by.

An example whose query or positive holds an evaluation text goes; a negative that holds one goes alone. For the sources
that the recipe names, a query that BM25 finds close to an evaluation text goes too (NV-Embed does this for Emotion and
AmazonCounterfactual, arXiv 2405.17428). In classification short positives and negatives are labels, not texts, and are
left alone. Everything dropped is kept as a list: what, where from, the evaluation text it met, how alike they were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from nvembed.core.digests import digest_json
from nvembed.data.example import Example
from nvembed.data.overlap import Overlap, OverlapIndex, plain_words

if TYPE_CHECKING:
    from nvembed.data.references import Reference
    from nvembed.recipe.decontamination import Decontamination


@dataclass(frozen=True, slots=True)
class Dropped:
    """One text that was dropped, or whose example was."""

    id: str
    source: str
    field: str
    kind: str
    similarity: float
    task: str
    text: str
    evaluation_text: str


@dataclass
class Cleaned:
    """What is left of some examples, and what is not."""

    examples: list[Example] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """`<source>: <field> (<kind>)` → number dropped, by name."""
        return dict(sorted(Counter(f"{d.source}: {d.field} ({d.kind})" for d in self.dropped).items()))


class Decontaminator:
    """Checks examples against the evaluation texts of a section.

    Args:
        section: what counts as the same text.
        references: the evaluation texts.
    """

    def __init__(self, section: Decontamination, references: Sequence[Reference]) -> None:
        self.section, self.references = section, references
        texts = [reference.text for reference in references]
        self._index = OverlapIndex(
            texts, min_words=section.min_words, shared=section.shared, similarity=section.similarity
        )
        self._bm25 = _CloseByBM25(texts, section.min_words) if section.bm25 else None

    def checked_against(self) -> dict[str, dict[str, Any]]:
        """Task → number of its texts and their digest: what a manifest says, and a gate asks for."""
        texts: dict[str, list[str]] = {}
        for reference in self.references:
            texts.setdefault(reference.task, []).append(reference.text)
        return {task: {"texts": len(own), "digest": digest_json(sorted(own))} for task, own in texts.items()}

    def clean(self, examples: Sequence[Example]) -> Cleaned:
        """The examples without what stands in the evaluation texts, in their order. Give thousands at once."""
        wanted = dict.fromkeys(text for example in examples for _, text in self._checked(example))
        found = {
            text: overlap
            for text, overlap in zip(wanted, self._index.find(list(wanted)), strict=True)
            if overlap is not None
        }
        cleaned = Cleaned()
        for example, close in zip(examples, self._close(examples), strict=True):
            hits = [(name, text, found[text]) for name, text in self._checked(example) if text in found]
            if close is not None and not any(name == "query" for name, _, _ in hits):
                hits.append(("query", example.query, close))
            cleaned.dropped += [self._dropped(example, *hit) for hit in hits]
            if any(name != "negative" for name, _, _ in hits):
                continue
            gone = {text for _, text, _ in hits}
            kept = tuple(text for text in example.negatives if text not in gone)
            cleaned.examples.append(
                example if len(kept) == len(example.negatives) else replace(example, negatives=kept)
            )
        return cleaned

    def holds(self, text: str) -> bool:
        """Whether a text holds one of the evaluation texts."""
        return self._index.find([text])[0] is not None

    def _checked(self, example: Example) -> Iterable[tuple[str, str]]:
        """The fields of an example that are checked, with their texts."""
        yield "query", example.query
        labelled = example.task_type == "classification"
        for name, text in (("positive", example.positive), *(("negative", text) for text in example.negatives)):
            if not labelled or len(plain_words(text).split()) >= self.section.min_words:
                yield name, text

    def _close(self, examples: Sequence[Example]) -> list[Overlap | None]:
        """What BM25 finds close to each query, for the sources named in the section."""
        found: list[Overlap | None] = [None] * len(examples)
        places = [place for place, example in enumerate(examples) if example.source in self.section.bm25]
        if self._bm25 is None or not places:
            return found
        nearest = self._bm25.nearest([examples[place].query for place in places])
        for place, overlap in zip(places, nearest, strict=True):
            if overlap is not None and overlap.similarity >= self.section.bm25[examples[place].source]:
                found[place] = overlap
        return found

    def _dropped(self, example: Example, name: str, text: str, overlap: Overlap) -> Dropped:
        reference = self.references[overlap.reference]
        return Dropped(
            id=example.id,
            source=example.source,
            field=name,
            kind=overlap.kind,
            similarity=round(overlap.similarity, 4),
            task=reference.task,
            text=text,
            evaluation_text=reference.text,
        )


class _CloseByBM25:
    """The evaluation text nearest to a text by BM25, as share of the evaluation text's score with itself."""

    _LOOKED_AT = 3  # the highest score is not always the highest share

    def __init__(self, texts: Sequence[str], min_words: int) -> None:
        import bm25s

        plain = [plain_words(text) for text in texts]
        self._numbers = [number for number, text in enumerate(plain) if len(text.split()) >= min_words]
        self._tokens = [plain[number].split() for number in self._numbers]
        self._retriever = bm25s.BM25()
        if self._tokens:
            self._retriever.index(self._tokens, show_progress=False)
        self._own: dict[int, float] = {}

    def nearest(self, texts: Sequence[str]) -> list[Overlap | None]:
        """One a text; None where no word is shared."""
        if not self._tokens:
            return [None] * len(texts)
        known = self._retriever.vocab_dict
        asked = [[word for word in plain_words(text).split() if word in known] for text in texts]
        found: list[Overlap | None] = [None] * len(texts)
        places = [place for place, words in enumerate(asked) if words]
        if not places:
            return found
        k = min(self._LOOKED_AT, len(self._tokens))
        numbers, scores = self._retriever.retrieve(
            [asked[place] for place in places], k=k, sorted=True, show_progress=False
        )
        for place, row, row_scores in zip(places, numbers.tolist(), scores.tolist(), strict=True):
            shares = [
                (score / self._score_with_itself(number), -number)
                for number, score in zip(row, row_scores, strict=True)
            ]
            share, number = max(shares)
            if share > 0:
                found[place] = Overlap(self._numbers[-number], "bm25", min(share, 1.0))
        return found

    def _score_with_itself(self, number: int) -> float:
        if number not in self._own:
            self._own[number] = float(self._retriever.get_scores(self._tokens[number])[number])
        return self._own[number]
