"""What the model card says of a mix."""

from __future__ import annotations

from typing import Any

import yaml
from registry_support import MODEL

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
