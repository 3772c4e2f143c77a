"""Queries for passages: what is asked of which passage, and what an answer gives."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nvembed.core.digests import digest_text
from nvembed.synthesis.answers import Answer
from nvembed.synthesis.asking import Request, drawn, make_request
from nvembed.synthesis.candidate import RETRIEVAL, Candidate
from nvembed.synthesis.documents import Passage
from nvembed.synthesis.parsing import bare_lines, parse_object, texts_in
from nvembed.synthesis.prompts import LINES_VERSION, VERSION, Wish, bare_prompt, document_prompt

if TYPE_CHECKING:
    from nvembed.recipe import Synthesis


def chosen_passages(passages: Sequence[Passage], section: Synthesis) -> list[Passage]:
    """The passages that are asked about: all, or `passages.limit` of them drawn by seed and text, in their order."""
    limit = section.passages.limit
    if limit is None or limit >= len(passages):
        return list(passages)
    drawn = sorted(passages, key=lambda passage: digest_text(f"{section.seed}/{passage.id}"))[:limit]
    ids = {passage.id for passage in drawn}
    return [passage for passage in passages if passage.id in ids]


def passage_request(section: Synthesis, passage: Passage, turn: int = 0) -> Request:
    """What is asked of a passage; `turn` counts second tries."""
    name, wishes = f"passage/{passage.id}/{turn}", wishes_of(section, passage)
    if _in_lines(section, drawn(section, name)[1]):
        return make_request(section, name, bare_prompt(passage.text, wishes))
    return make_request(section, name, document_prompt(passage.text, wishes, section.queries.hard_negatives))


def _in_lines(section: Synthesis, endpoint: int) -> bool:
    return section.endpoints[endpoint].answers == "lines"


def wishes_of(section: Synthesis, passage: Passage) -> list[Wish]:
    """What its queries are to be, drawn by weight; the same for every try."""
    draw = random.Random(f"{section.seed}/{passage.id}")
    asked = section.queries
    return [
        Wish(pick(draw, asked.kinds), pick(draw, asked.lengths), pick(draw, asked.languages))
        for _ in range(asked.per_passage)
    ]


def pick(draw: random.Random, weights: Mapping[Any, float]) -> str:
    """One of the names, by weight."""
    return str(draw.choices(list(weights), weights=list(weights.values()))[0])


def read_passage_answer(
    section: Synthesis, passage: Passage, split: str, request: Request, answer: Answer
) -> list[Candidate]:
    """The queries of an answer, in order, at most as many as were asked for; none if it cannot be used."""
    in_lines = _in_lines(section, request.endpoint)
    found = parse_object(answer.text or "") or {}
    bare = in_lines and not {"query", "queries"} & found.keys()  # some answer in JSON unasked
    items = bare_lines(answer.text or "") if bare else found.get("queries", [found])
    candidates = []
    for wish, item in zip(wishes_of(section, passage), items if isinstance(items, list) else [], strict=False):
        query = item.get("query") if isinstance(item, dict) else item
        if not isinstance(query, str) or not query.strip():
            continue
        negatives = texts_in(item.get("hard_negatives", [])) if isinstance(item, dict) else []
        candidates.append(
            Candidate(
                query=" ".join(query.split()),
                positive=passage.text,
                negatives=tuple(negatives[: section.queries.hard_negatives]),
                split=split,
                task=RETRIEVAL,
                task_type="retrieval",
                instruction=section.instruction or "",
                kind=wish.kind,
                length=wish.length,
                language=wish.language,
                model=answer.model,
                prompt=LINES_VERSION if in_lines else VERSION,
                seed=request.seed,
                request=request.key,
                passage=passage.id,
                document=passage.document,
                place=passage.place,
            )
        )
    return candidates
