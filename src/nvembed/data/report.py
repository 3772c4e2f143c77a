"""What to know of a dataset before training on it: counts, lengths, what was dropped, examples, licences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from nvembed.data.document import Document
from nvembed.data.example import Example, Pair
from nvembed.data.source import BadRow
from nvembed.data.splits import Split

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHOWN = 2  # examples of each task type
_SHOWN_CHARACTERS = 400
_COLOURS = {"train": "#4477aa", "dev": "#ccbb44", "test": "#ee6677"}  # Tol's bright scheme: told apart by all eyes


@dataclass(frozen=True)
class Prepared:
    """A source read and split: what is written and what is to be said of it."""

    split: Split
    examples: Sequence[Example]
    source: str
    license: str
    digest: str
    rows: int
    dropped: Mapping[str, int]
    bad_rows: tuple[BadRow, ...] = ()


def write_report(folder: Path, prepared: Prepared, counts: Mapping[str, int]) -> None:
    """Write `report.png`, `report.md` and `report.html` into a dataset folder."""
    lengths = _lengths(prepared.split)
    picture = folder / "report.png"
    _draw(picture, counts, lengths)
    document = Document(f"Data: {prepared.source}")
    document.paragraph(
        f"{counts['train_examples']:,} training examples from {prepared.rows:,} rows; held out are "
        f"{counts.get('test_retrieval_queries', 0):,} queries for test and "
        f"{counts.get('dev_retrieval_queries', 0):,} for dev. Digest of the source: {prepared.digest[:16]}."
    )
    document.picture(picture, "rows of every set, and how long queries and passages are")
    document.heading("Rows")
    document.table(["set", "rows"], [[name.replace("_", " "), number] for name, number in counts.items()])
    document.heading("Lengths in words")
    document.table(
        ["split", "text", "texts", "median", "95 % below", "longest"],
        [[split, kind, *_summary(words)] for (split, kind), words in lengths.items() if words],
    )
    _say_dropped(document, prepared)
    show_examples(document, _some_of_each_type(prepared.examples))
    document.heading("Licences")
    document.table(["source", "licence"], [[prepared.source, prepared.license]])
    document.write(folder)


def _say_dropped(document: Document, prepared: Prepared) -> None:
    document.heading("Dropped")
    parts = (prepared.dropped, prepared.split.dropped)
    rules = [(rule, number) for part in parts for rule, number in part.items() if number]
    if rules:
        document.table(["rule", "dropped"], rules)
    else:
        document.paragraph("Nothing was dropped.")
    if prepared.bad_rows:
        listed = len(prepared.bad_rows)
        document.paragraph(f"Rows that cannot be used (the first {listed}):")
        document.table(["line", "why"], [[row.line, row.reason] for row in prepared.bad_rows])


def _some_of_each_type(examples: Sequence[Example]) -> Iterator[tuple[str, Example]]:
    for task_type in dict.fromkeys(example.task_type for example in examples):
        chosen = [example for example in examples if example.task_type == task_type]
        for example in chosen[:: max(len(chosen) // _SHOWN, 1)][:_SHOWN]:
            yield task_type, example


def show_examples(document: Document, named: Iterable[tuple[str, Example]]) -> None:
    """Add examples, each under its name."""
    document.heading("Examples as the model reads them")
    document.paragraph("Under the default template; long texts are cut here, not in the data.")
    for name, example in named:
        third = "a negative" if example.negatives else "no negative yet"
        document.paragraph(f"{name}: query, positive, {third}")
        for text in _as_the_model_reads(example):
            document.quote(text)


def _as_the_model_reads(example: Example) -> list[str]:
    """Query, positive and the first negative if there is one, each under its instruction; cut where they are long."""
    from nvembed.text.rule import DEFAULT_TEMPLATE

    def seen(instruction: str, text: str) -> str:
        shown = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + " …"
        return DEFAULT_TEMPLATE.format(task=instruction, text=shown) if instruction else shown

    documents = [example.positive, *example.negatives[:1]]
    return [
        seen(example.query_instruction, example.query),
        *(seen(example.document_instruction, text) for text in documents),
    ]


def _lengths(split: Split) -> dict[tuple[str, str], list[int]]:
    """(split, query or passage) → words of each different text."""
    parts: dict[str, Sequence[Pair]] = {"train": split.train, "dev": split.dev, "test": split.test}
    return {
        (name, kind): [len(text.split()) for text in dict.fromkeys(getattr(pair, attribute) for pair in pairs)]
        for name, pairs in parts.items()
        for kind, attribute in (("query", "query"), ("passage", "positive"))
    }


def _summary(words: list[int]) -> list[int]:
    return [len(words), round(median(words)), sorted(words)[int(0.95 * (len(words) - 1))], max(words)]


def _draw(file: Path, counts: Mapping[str, int], lengths: Mapping[tuple[str, str], list[int]]) -> None:
    """Three panels: rows of each set, lengths of queries, lengths of passages."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    FigureCanvasAgg(figure)
    bars, queries, passages = figure.subplots(1, 3, width_ratios=[1.3, 1, 1])
    _draw_rows(bars, counts)
    _draw_lengths(queries, lengths, "query", "How long queries are")
    _draw_lengths(passages, lengths, "passage", "How long passages are")
    queries.legend(frameon=False)
    for axes in (bars, queries, passages):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)


def _draw_rows(axes: Axes, counts: Mapping[str, int]) -> None:
    rows = {
        f"{split} {task}": counts[key]
        for split in _COLOURS
        for task in ("retrieval", "classification", "clustering", "sts", "pair")
        for key in _keys(split, task)
        if key in counts
    }
    colours = [_COLOURS[name.split()[0]] for name in rows]
    drawn = axes.barh(list(rows), list(rows.values()), color=colours)
    axes.bar_label(drawn, fmt="{:,.0f}", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_title("Rows of each set", loc="left")
    axes.set_xlabel("examples to train on, queries or texts to measure")


def _keys(split: str, task: str) -> list[str]:
    if split == "train":
        return [f"train_{task}"]
    return [f"{split}_{task}_{'queries' if task == 'retrieval' else 'test'}"]


def _draw_lengths(axes: Axes, lengths: Mapping[tuple[str, str], list[int]], kind: str, title: str) -> None:
    """Share of texts by length, one line a split; the longest two per cent are gathered in the last bin."""
    splits: dict[str, Any] = {split: lengths[split, kind] for split in _COLOURS if lengths[split, kind]}
    every = sorted(length for words in splits.values() for length in words)
    most = max(every[int(0.98 * (len(every) - 1))], 2)
    width = -(-most // 24)  # whole words, or bins would hold unequal numbers of lengths
    edges = [width * step + 0.5 for step in range(-(-most // width) + 1)]
    for split, words in splits.items():
        shares = [100 / len(words)] * len(words)
        clipped = [min(length, most) for length in words]
        axes.hist(clipped, edges, weights=shares, histtype="step", color=_COLOURS[split], label=split, linewidth=1.6)
    axes.set_title(title, loc="left")
    axes.set_xlabel(f"words ({most} and more in the last bin)" if every[-1] > most else "words")
    axes.set_ylabel("% of texts")
