"""What the model card says of a mix."""

from __future__ import annotations

from typing import Any

import yaml
from registry_support import MODEL

from nvembed.evaluation.report import synthetic_note
from nvembed.registry.card import model_card


def source(name: str, **more: Any) -> dict[str, Any]:
    about = {"place": f"o/{name}@0123456789ab pair/train", "license": "mit"}
    return {"name": name, **about, "rows": 1200, "left_by_cap": 150, "dropped": {"evaluation text": 50}, **more}


CARD = {
    "licenses": {"nq": "mit", "quora": "mit"},
    "sources": [source("nq", examples=1000), source("quora", examples=7)],
    "checked_against": {"STS12": {"texts": 3000}, "Banking77": {"texts": 80}},
}


def test_every_source_stands_there_with_its_revision_licence_and_counts() -> None:
    text = model_card(MODEL, 8, CARD)
    assert "| nq | o/nq@0123456789ab pair/train | mit | 1,200 | 150 | 50 | 1,000 |" in text
    front = yaml.safe_load(text.split("---")[1])
    assert front["datasets"] == ["o/nq", "o/quora"]


def test_it_tells_what_training_was_checked_against() -> None:
    assert "3,080 texts of 2 evaluation tasks" in model_card(MODEL, 8, CARD)
    assert "not checked against any evaluation task" in model_card(MODEL, 8, {**CARD, "checked_against": {}})
    assert "evaluation task" not in model_card(MODEL, 8, {"licenses": {"docs": "PSF-2.0"}})


def test_it_tells_which_models_wrote_examples_and_that_a_task_is_synthetic() -> None:
    scores = {"stage2": {"test": {"synthetic-retrieval": {}, "retrieval": {}}}}
    card = {**CARD, "writers": ["m-1", "m-2"], "table": "| model |", "note": synthetic_note({"scores": scores})}
    text = model_card(MODEL, 8, card)

    assert "Synthetic examples were written by m-1, m-2" in text
    assert "- synthetic-retrieval: synthetic. Its queries were written by language models, not by users" in text
    assert synthetic_note({"scores": {"stage2": {"test": {"retrieval": {}}}}}) == ""
