"""Asking the rule-based server as a run does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from nvembed.synthesis.answers import FILE, Answers
from nvembed.synthesis.asking import Asker
from nvembed.synthesis.documents import read_documents
from nvembed.synthesis.gathering import Gathered, gather
from nvembed.synthesis.synthesize import _folder

if TYPE_CHECKING:
    from nvembed.recipe import Synthesis

PASSAGES = 24


def write(section: Synthesis) -> tuple[Gathered, Asker]:
    """All queries for all passages, as training data."""
    passages = read_documents(section).passages
    asker = Asker(section, Answers(_folder(section)))
    return gather(section, asker, passages, {passage.id: "train" for passage in passages}), asker


def lines(section: Synthesis) -> list[dict]:
    """What is kept of requests that came to an end."""
    kept = [json.loads(line) for line in (_folder(section) / FILE).read_text(encoding="utf-8").splitlines()]
    return [line for line in kept if line["state"] == "ended"]
