"""Which examples are kept. Each filter marks what it refuses with its reason and leaves the rest to the next one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nvembed.core.errors import UserError
from nvembed.core.progress import track
from nvembed.data.near_copies import NearCopies, jaccard, ngrams, words_of
from nvembed.data.overlap import plain_words
from nvembed.synthesis.candidate import Candidate

if TYPE_CHECKING:
    from nvembed.recipe.synthesis import Quality
    from nvembed.synthesis.documents import Passage

EMPTY = "no words"
SHORT, LONG = "too few words", "too many words"
LANGUAGE = "another language than asked for"
EXACT, NEAR = "exact duplicate", "near duplicate"
LEAKAGE = "too many of the passage's own words"
SAME = "query and positive are the same"
ROUND_TRIP = "does not find its passage"
JUDGED = "judged too low"
NO_NEGATIVE = "no hard negative"

_SURE = 0.9  # probability from which on another language counts as told
_LETTERS_TO_TELL = 15  # fewer tell no language
_CJK = frozenset({"ja", "zh", "ko", "th"})
_SCORES_AT_ONCE = 2**26
_ONE_LANGUAGE = ({"no", "nb", "nn"}, {"hr", "sr", "bs"}, {"id", "ms"})  # told apart by few words, if at all
_LETTER = re.compile(r"[^\W\d_]")


class Embed(Protocol):
    """Vectors of texts, (n, dim) of norm 1, as queries or as documents."""

    def __call__(self, texts: Sequence[str], *, queries: bool) -> np.ndarray: ...


def open_candidates(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Those that no filter has refused so far."""
    return [candidate for candidate in candidates if not candidate.refused]


def refuse_shapes(candidates: Sequence[Candidate], quality: Quality) -> None:
    """Empty queries, too short or too long ones by words, and those that are their own positive.

    Of languages written without spaces two characters count as a word. The bounds are for queries on documents; a task
    of the paper's has lengths of its own.
    """
    for candidate in open_candidates(candidates):
        words = len(words_of(candidate.query))
        if candidate.language in _CJK:
            words = len(_LETTER.findall(candidate.query)) // 2
        if not words:
            candidate.refused = EMPTY
        elif plain_words(candidate.query) == plain_words(candidate.positive):
            candidate.refused = SAME
        elif candidate.passage and words < quality.min_words:
            candidate.refused = SHORT
        elif candidate.passage and words > quality.max_words:
            candidate.refused = LONG


def clean_negatives(candidates: Sequence[Candidate], quality: Quality, *, needed: bool = False) -> None:
    """Drop hard negatives that repeat the query, the positive or each other; a likeness of all words counts.

    `needed`: an example that is left without one is refused.
    """
    for candidate in open_candidates(candidates):
        taken = {plain_words(candidate.query), plain_words(candidate.positive)}
        grams = ngrams(candidate.positive)
        kept = []
        for text in candidate.negatives:
            words = plain_words(text)
            if words and words not in taken and jaccard(ngrams(text), grams) < quality.repeated_negatives:
                kept.append(text)
                taken.add(words)
        candidate.negatives_dropped = len(candidate.negatives) - len(kept)
        candidate.negatives = tuple(kept)
        if needed and not kept:
            candidate.refused = NO_NEGATIVE


def refuse_languages(candidates: Sequence[Candidate]) -> None:
    """Queries that are surely in another language than asked for.

    Told by py3langid over all its languages; a short text, or one whose language is not sure, is let through. Raises
    UserError where py3langid is not installed.
    """
    waiting = open_candidates(candidates)
    identify = language_identifier() if waiting else None
    for candidate in waiting:
        assert identify is not None
        letters = len(_LETTER.findall(candidate.query))
        if letters >= (_LETTERS_TO_TELL if candidate.query.isascii() else 4):
            language, probability = identify(candidate.query)
            if probability >= _SURE and not _same_language(language, candidate.language):
                candidate.refused = LANGUAGE


def _same_language(one: str, other: str) -> bool:
    return one == other or any({one, other} <= group for group in _ONE_LANGUAGE)


@cache
def language_identifier() -> Callable[[str], tuple[str, float]]:
    """Tells a text's language (ISO 639-1) and how sure that is. Raises UserError where py3langid is not installed."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise UserError(
            f"synthesis.quality.language: package {error.name} is not installed; pip install 'nvembed[synthesis]', or "
            "set it to false"
        ) from error
    identifier: Any = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def classify(text: str) -> tuple[str, float]:
        language, probability = identifier.classify(text)
        return str(language), float(probability)

    return classify


def refuse_duplicates(candidates: Sequence[Candidate], threshold: float | None) -> None:
    """Queries with the same words as one before, case and punctuation aside, or that nearly copy one.

    Held-out queries count as before all others, so that no training query copies one of them. Of an example that is
    not from documents query and positive count together: one task has many examples.
    """
    order = {"test": 0, "dev": 1, "train": 2}
    waiting = sorted(open_candidates(candidates), key=lambda candidate: order[candidate.split])
    seen: set[str] = set()
    index: NearCopies[int] = NearCopies(threshold or 1.0)
    for number, candidate in enumerate(waiting):
        text = candidate.query if candidate.passage else f"{candidate.query}\n{candidate.positive}"
        words = plain_words(text)
        if words in seen:
            candidate.refused = EXACT
            continue
        seen.add(words)
        if threshold is not None:
            if index.copies_of(text):
                candidate.refused = NEAR
                continue
            index.add(number, text)


def measure_leakage(candidates: Sequence[Candidate], most: float | None) -> None:
    """The share of each query's different words that stand in its positive; above `most` it is refused."""
    words: dict[str, frozenset[str]] = {}
    for candidate in open_candidates(candidates):
        if candidate.positive not in words:
            words[candidate.positive] = frozenset(words_of(candidate.positive))
        asked = set(words_of(candidate.query))
        candidate.leakage = len(asked & words[candidate.positive]) / len(asked) if asked else 0.0
        if most is not None and candidate.leakage > most:
            candidate.refused = LEAKAGE


def round_trip(candidates: Sequence[Candidate], passages: Sequence[Passage], rank: int, embed: Embed) -> None:
    """Refuse queries whose positive is not among the first `rank` by cosine.

    Queries on documents look among all passages, held-out ones included; examples of tasks among all positives of
    their own type.
    """
    waiting = open_candidates(candidates)
    groups: dict[str, list[Candidate]] = {}
    for candidate in waiting:
        groups.setdefault(candidate.task, []).append(candidate)
    for group in groups.values():
        texts = [passage.text for passage in passages] if group[0].passage else []
        texts = list(dict.fromkeys([*texts, *(candidate.positive for candidate in group)]))
        place = {text: number for number, text in enumerate(texts)}
        own = np.array([place[candidate.positive] for candidate in group])
        queries = embed([candidate.query for candidate in group], queries=True)
        documents = embed(texts, queries=False)
        ranks, scores = ranks_of(queries, documents, own)
        for candidate, found, score in zip(group, ranks.tolist(), scores.tolist(), strict=True):
            candidate.rank, candidate.similarity = found, score
            if found > rank:
                candidate.refused = ROUND_TRIP


def ranks_of(queries: np.ndarray, documents: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each query's rank of its own document, 1 the best, and their inner product.

    Args:
        queries: (q, dim); documents: (n, dim); own: (q,) numbers of documents.

    Returns:
        ranks: (q,) int64: one more than the documents that score higher, or the same and stand before it.
        scores: (q,) float32.
    """
    ranks = np.empty(len(queries), dtype=np.int64)
    scores = np.empty(len(queries), dtype=np.float32)
    documents = np.asarray(documents, dtype=np.float32)
    block = max(1, _SCORES_AT_ONCE // max(1, len(documents)))
    for start in track(range(0, len(queries), block), "round trip"):
        part = slice(start, start + block)
        products = np.asarray(queries[part], dtype=np.float32) @ documents.T
        mine = products[np.arange(len(products)), own[part]][:, None]
        before = np.arange(len(documents))[None, :] < own[part][:, None]
        ranks[part] = 1 + ((products > mine) | ((products == mine) & before)).sum(axis=1)
        scores[part] = mine[:, 0]
    return ranks, scores
