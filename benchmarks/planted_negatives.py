"""False negatives planted in a corpus: how many of them each rule of mining lets through.

    python benchmarks/planted_negatives.py --out benchmarks/results/planted_negatives.json

The laptop recipe's training data (Python's documentation). Some retrieval rows get a copy of their positive in the
corpus under another id, as it is or changed in one of several ways, so that it still answers the query. The whole set
is mined with the laptop's teacher by each rule, through `nvembed.mining.mine`, folder to folder. A copy that becomes a
negative of its own row is a false negative let through. Beside it stands what a rule costs: negatives found a query, of
all rows. A row has one copy at a time, so that copies do not crowd each other out; in the next round it gets another
kind. A minute a round on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import describe, heading

from nvembed import data
from nvembed.core.artifacts import read_manifest, write_manifest
from nvembed.data import Example, read_corpus, read_examples, write_examples
from nvembed.data.store import text_schema, write_parts
from nvembed.mining import mine
from nvembed.recipe import Mining, Resources, load_recipe

# The thresholds that NV-Retriever (arXiv 2407.15831) settled on, and a stricter percentage.
RULES: dict[str, dict[str, Any]] = {
    "naive": {"method": "naive"},
    "shifted 10": {"method": "shifted", "shift": 10},
    "absolute 0.70": {"method": "absolute", "threshold": 0.7},
    "margin 0.05": {"method": "margin", "threshold": 0.05},
    "percentage 0.95": {"method": "percentage", "threshold": 0.95},
    "percentage 0.90": {"method": "percentage", "threshold": 0.90},
}
SYNONYMS = {
    "return": "give back", "returns": "gives back", "returned": "given back", "raise": "throw", "raises": "throws",
    "raised": "thrown", "if": "in case", "create": "make", "creates": "makes", "created": "made", "object": "thing",
    "objects": "things", "argument": "parameter", "arguments": "parameters", "method": "routine", "methods": "routines",
    "function": "procedure", "list": "sequence", "string": "text", "strings": "texts", "file": "document",
    "files": "documents", "value": "content", "values": "contents", "given": "supplied", "specified": "stated",
    "optional": "not required", "must": "has to", "should": "ought to", "error": "failure", "default": "standard",
    "used": "employed", "use": "employ", "uses": "employs", "name": "label", "names": "labels", "new": "fresh",
    "also": "as well", "only": "solely", "all": "every one of the", "when": "whenever", "called": "invoked",
    "call": "invoke", "set": "assign", "otherwise": "or else", "number": "count", "current": "present",
}  # fmt: skip


@dataclass(frozen=True)
class Plant:
    """A changed copy of a row's positive."""

    row: int
    kind: str
    text: str


def main() -> None:
    """Plant, mine by each rule, print the shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plants", type=int, default=100, help="copies of each kind in a round, at most (100)")
    parser.add_argument("--rounds", type=int, default=3, help="how often, each time with other rows for a kind (3)")
    parser.add_argument("--negatives", type=int, default=7, help="negatives wanted of each query (7)")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    asked = parser.parse_args()
    print(heading(), flush=True)
    recipe = load_recipe("laptop")
    with tempfile.TemporaryDirectory(prefix="nvembed-planted-") as place:
        folder = Path(place)
        os.environ["NVEMBED_STATE"] = str(folder / "state")
        data.prepare(recipe.data, folder / "prepared", folder / "eval")
        plants: list[Plant] = []
        found: dict[str, dict[str, Any]] = {}
        for turn in range(asked.rounds):
            planted = plant(folder / "prepared", folder / "dataset", asked.plants, turn)
            plants += planted
            examples = read_examples(folder / "dataset")
            for name, rule in RULES.items():
                section = {**recipe.mining.model_dump(), **rule, "num_negatives": asked.negatives}
                mine(Mining.model_validate(section), Resources(device="cpu"), folder / "dataset", folder / "mined")
                add(found.setdefault(name, {}), outcome(folder / "mined", examples, planted))
            print(f"round {turn + 1}: {len(planted)} copies among {len(read_corpus(folder / 'dataset')):,}", flush=True)
    counts = dict(Counter(one.kind for one in plants))
    rows = asked.rounds * len(examples)
    show(counts, found, rows, asked.negatives)
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        facts = {"machine": describe(), "negatives": asked.negatives, "rows": rows, "plants": counts}
        asked.out.write_text(json.dumps({**facts, "rules": found}, indent=2) + "\n")


def sentences(text: str) -> list[str]:
    """A text cut after `.`, `!` and `?`."""
    return [part for part in re.split(r"(?<=[.!?])\s+", text) if part]


def ways(foreign: list[str], draw: random.Random) -> dict[str, Callable[[str], str]]:
    """Kind → how a text is changed. `foreign`: sentences of which one may be added."""

    def added(text: str) -> str:
        return f"{text} {draw.choice(foreign)}"

    def dropped(text: str) -> str:
        parts = sentences(text)
        parts.pop(draw.randrange(len(parts)))
        return " ".join(parts)

    def reordered(text: str) -> str:
        parts = sentences(text)
        turn = draw.randrange(1, len(parts))
        return " ".join(parts[turn:] + parts[:turn])

    def thinned(share: float) -> Callable[[str], str]:
        def drop_words(text: str) -> str:
            words = text.split()
            out = set(draw.sample(range(len(words)), max(1, round(share * len(words)))))
            return " ".join(word for place, word in enumerate(words) if place not in out)

        return drop_words

    def synonyms(text: str) -> str:
        return re.sub(r"[A-Za-z]+", lambda match: SYNONYMS.get(match[0].lower(), match[0]), text)

    return {
        "exact": lambda text: text,
        "re-cased": str.upper,
        "re-punctuated": lambda text: re.sub(r"\s*[.,;:()]+\s*", " - ", text) + "!",
        "a sentence added": added,
        "a sentence dropped": dropped,
        "sentences reordered": reordered,
        "synonyms": synonyms,
        "10 % of the words dropped": thinned(0.1),
        "20 % of the words dropped": thinned(0.2),
    }


def plant(prepared: Path, out: Path, count: int, turn: int) -> list[Plant]:
    """Write the dataset's retrieval rows and its corpus with `count` copies of each kind, each of another row.

    A row serves if its positive has three sentences and 20 words, and nothing else in the data shares its query or its
    positive.
    """
    examples = [example for example in read_examples(prepared) if example.task_type == "retrieval"]
    corpus = read_corpus(prepared)
    asked, answers = Counter(e.query for e in examples), Counter(e.positive for e in examples)
    fit = [
        row
        for row, example in enumerate(examples)
        if len(sentences(example.positive)) >= 3
        and len(example.positive.split()) >= 20
        and asked[example.query] == answers[example.positive] == 1
    ]
    draw = random.Random(5)
    draw.shuffle(fit)
    foreign = [sentence for text in corpus.values() for sentence in sentences(text) if 5 <= len(sentence.split()) <= 25]
    plants: list[Plant] = []
    changes = ways(foreign, draw)
    for place, kind in enumerate(changes):
        for row in fit[(place + turn) % len(changes) :: len(changes)][:count]:
            text = changes[kind](examples[row].positive)
            if kind == "exact" or text != examples[row].positive:
                plants.append(Plant(row, kind, text))
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    write_examples(out, examples)
    rows = [{"id": name, "text": text} for name, text in corpus.items()]
    rows += [{"id": f"planted-{number:05d}", "text": one.text} for number, one in enumerate(plants)]
    write_parts(out / "corpus", rows, text_schema())
    write_manifest(out, kind="dataset", section={}, licenses=read_manifest(prepared).licenses)
    return plants


def outcome(mined: Path, examples: list[Example], plants: list[Plant]) -> dict[str, Any]:
    """How many plants of each kind became a negative of their own row, and how many negatives there are."""
    rows = read_examples(mined)
    assert [row.query for row in rows] == [example.query for example in examples]
    through = Counter(one.kind for one in plants if one.text in rows[one.row].negatives)
    return {
        "through": {kind: through[kind] for kind in dict.fromkeys(one.kind for one in plants)},
        "negatives": sum(len(row.negatives) for row in rows),
        "short_queries": int(read_manifest(mined).headline["mining.short_queries"]),
        "queries_without": sum(not row.negatives for row in rows),
    }


def add(total: dict[str, Any], counts: dict[str, Any]) -> None:
    """Add a round's counts to those so far."""
    for name, value in counts.items():
        if isinstance(value, dict):
            add(total.setdefault(name, {}), value)
        else:
            total[name] = total.get(name, 0) + value


def show(counts: dict[str, int], found: dict[str, dict[str, Any]], rows: int, negatives: int) -> None:
    """Share of the plants let through, a line a kind, a column a rule."""
    print(
        f"\n{rows} queries, {negatives} negatives wanted; share of planted copies that became a negative of their row"
    )
    print(f"{'':28}{'planted':>8}" + "".join(f"{rule:>17}" for rule in found))
    for kind, planted in counts.items():
        shares = "".join(f"{one['through'][kind] / planted:17.3f}" for one in found.values())
        print(f"{kind:28}{planted:8}{shares}")
    total = sum(counts.values())
    print(f"{'all':28}{total:8}" + "".join(f"{sum(f['through'].values()) / total:17.3f}" for f in found.values()))
    print(f"{'negatives a query':36}" + "".join(f"{one['negatives'] / rows:17.2f}" for one in found.values()))
    print(f"{'queries with fewer':36}" + "".join(f"{one['short_queries']:17}" for one in found.values()))
    print(f"{'queries with none':36}" + "".join(f"{one['queries_without']:17}" for one in found.values()))


if __name__ == "__main__":
    main()
