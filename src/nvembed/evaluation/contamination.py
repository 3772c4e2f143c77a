"""Is a model judged by texts that it was trained on? Looked at again at the gate, whatever was done before.

Test texts (queries, their relevant passages, texts to be classified or clustered) are looked for in the training
examples, word for word, case and punctuation aside. Preparing the data should have left none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nvembed.core.artifacts import read_manifest
from nvembed.core.errors import UserError
from nvembed.data.columns import text_key
from nvembed.data.overlap import plain_words
from nvembed.data.store import read_tables
from nvembed.evaluation.sets import EvalSet, read_sets

LEAST_WORDS = 4
"""Shorter texts ("see above") stand anywhere by chance."""


@dataclass(frozen=True)
class Contamination:
    """How many test texts were looked for, in how many training examples, and what was found.

    Attributes:
        found: number of training examples that hold a test text. example: one of these texts, or "".
        benchmarks: names of the benchmark tasks that preparing the data checked against.
    """

    texts: int
    examples: int
    found: int
    example: str = ""
    benchmarks: tuple[str, ...] = ()


def find_contamination(eval_sets: Path, dataset: Path, splits: Iterable[str]) -> Contamination:
    """Look for the eval sets' texts in a training dataset; reads it once, in blocks.

    Raises UserError for a dataset without examples: nothing would be found in it.
    """
    wanted = {key: text for source in read_sets(eval_sets, splits) for key, text in _texts(source).items()}
    keys = np.array(sorted(wanted), dtype=np.uint64)
    rows, found, example = 0, 0, ""
    for table in read_tables(dataset / "train", ["query", "positive"]):
        hits = np.zeros(len(table), dtype=bool)
        for name in ("query", "positive"):
            own = np.array([_key(text) for text in table[name].to_pylist()], dtype=np.uint64)
            held = np.isin(own, keys)
            if held.any() and not example:
                example = wanted[int(own[held][0])]
            hits |= held
        rows, found = rows + len(table), found + int(hits.sum())
    if not rows:
        raise UserError(f"{dataset}: holds no training examples; give a folder that prepare wrote")
    checked = (read_manifest(dataset).extra.get("decontamination") or {}).get("checked_against") or {}
    return Contamination(len(wanted), rows, found, example, tuple(sorted(checked)))


def _texts(source: EvalSet) -> dict[int, str]:
    relevant = {document for graded in source.qrels.values() for document in graded}
    texts = [*source.queries.values(), *(source.corpus[one] for one in relevant), *source.test[0]]
    return {_key(text): text for text in texts if len(plain_words(text).split()) >= LEAST_WORDS}


def _key(text: str) -> int:
    return text_key(plain_words(text))
