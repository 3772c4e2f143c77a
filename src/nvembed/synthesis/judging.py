"""A model's opinion of how well passages answer their queries, all queries of a passage at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nvembed.synthesis.answers import Answer
from nvembed.synthesis.asking import Request, make_request
from nvembed.synthesis.candidate import Candidate
from nvembed.synthesis.filters import JUDGED, open_candidates
from nvembed.synthesis.parsing import parse_object
from nvembed.synthesis.prompts import judge_prompt

if TYPE_CHECKING:
    from nvembed.recipe import Synthesis

_AT_ONCE = 8


def judge_requests(section: Synthesis, candidates: Sequence[Candidate]) -> list[tuple[Request, list[Candidate]]]:
    """What is asked, and of which candidates each request asks."""
    groups: dict[str, list[Candidate]] = {}
    for candidate in open_candidates(candidates):
        groups.setdefault(candidate.positive, []).append(candidate)
    requests = []
    for positive, group in groups.items():
        for start in range(0, len(group), _AT_ONCE):
            part = group[start : start + _AT_ONCE]
            prompt = judge_prompt(positive, [candidate.query for candidate in part])
            name = f"judge/{part[0].request}/{start}"
            requests.append((make_request(section, name, prompt), part))
    return requests


def read_judgements(
    section: Synthesis, requests: Sequence[tuple[Request, list[Candidate]]], answers: Mapping[str, Answer]
) -> int:
    """Note the scores and refuse what is below `judge.min_score`; how many could not be judged, which stay."""
    missing = 0
    for request, group in requests:
        answer = answers.get(request.name)
        parsed = parse_object(answer.text or "") if answer is not None else None
        scores = (parsed or {}).get("scores")
        if not isinstance(scores, list) or len(scores) != len(group):
            missing += len(group)
            continue
        for candidate, score in zip(group, scores, strict=True):
            if not isinstance(score, int | float) or isinstance(score, bool) or not 1 <= score <= 5:
                missing += 1
                continue
            candidate.judged = round(score)
            if candidate.judged < section.quality.judge.min_score:
                candidate.refused = JUDGED
    return missing
