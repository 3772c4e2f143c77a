"""What was written and what became of it: accepted, refused and why, examples of each, kinds, lengths, cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from nvembed.data.document import Document
from nvembed.data.near_copies import words_of
from nvembed.synthesis.answers import Spent
from nvembed.synthesis.candidate import Candidate
from nvembed.synthesis.held_out import LEFT_OUT

if TYPE_CHECKING:
    from nvembed.recipe import Synthesis

_ACCEPTED_SHOWN, _REFUSED_SHOWN = 6, 3
_CHARACTERS = 500
_PASSAGES = {
    **{split: f"for {split}" for split in ("train", "dev", "test")},
    LEFT_OUT: "left out, since they share words with held-out ones",
}
_GOOD, _BAD = "#4477aa", "#ee6677"  # Tol's bright scheme


@dataclass
class Findings:
    """All that a report tells."""

    candidates: Sequence[Candidate]
    requests: int
    failures: Mapping[str, int]
    unusable: Sequence[str]
    spent: Spent
    priced: bool
    stopped: str | None
    passages: Mapping[str, int]
    skipped: Mapping[str, int] = field(default_factory=dict)
    not_judged: int = 0

    @property
    def accepted(self) -> list[Candidate]:
        """What no filter refused."""
        return [candidate for candidate in self.candidates if not candidate.refused]

    @property
    def refused(self) -> Counter[str]:
        """Reason → candidates."""
        return Counter(candidate.refused for candidate in self.candidates if candidate.refused)

    def reasons(self) -> str:
        """The reasons for which there is no example, most frequent first, in one line."""
        both = Counter(self.failures) + self.refused
        return ", ".join(f"{number} × {reason}" for reason, number in both.most_common(5)) or "nothing was asked"


def write_report(folder: Path, section: Synthesis, findings: Findings) -> None:
    """Write `report.png`, `report.md` and `report.html` into a folder."""
    picture = folder / "report.png"
    _draw(picture, findings)
    accepted = findings.accepted
    document = Document("Synthetic data")
    total = len(findings.candidates)
    document.paragraph(
        f"{len(accepted):,} of {total:,} examples were accepted"
        + (f" ({len(accepted) / total:.0%})" if total else "")
        + f". {findings.requests:,} requests were wanted. All examples, and the dev and test sets made of them, "
        "are synthetic: written by language models, not by users."
    )
    if findings.stopped:
        document.paragraph(f"The run stopped at its budget: {findings.stopped}.")
    document.picture(picture, "examples by what became of them, by kind, and how long queries are")
    _say_cost(document, section, findings)
    _say_outcomes(document, section, findings)
    _say_kinds(document, findings)
    _show(document, findings)
    document.write(folder)


def _say_cost(document: Document, section: Synthesis, findings: Findings) -> None:
    document.heading("Cost")
    spent = findings.spent
    money = f"{spent.cost:.4f}" if findings.priced else "prices not given"
    document.table(
        ["what", "number"],
        [
            ["requests that were worked on, second tries included", spent.requests],
            ["tokens, sent and answered", spent.tokens],
            ["cost", money],
        ],
    )
    document.table(
        ["endpoint", "model", "examples accepted"],
        [
            [endpoint.base_url, endpoint.model, sum(one.model == endpoint.model for one in findings.accepted)]
            for endpoint in section.endpoints
        ],
    )


def _say_outcomes(document: Document, section: Synthesis, findings: Findings) -> None:
    document.heading("Accepted and refused")
    rows: list[list[str | int]] = [
        [f"accepted for {split}", sum(one.split == split for one in findings.accepted)]
        for split in ("train", "dev", "test")
    ]
    rows += [[f"refused: {reason}", number] for reason, number in findings.refused.most_common()]
    rows += [[f"request without example: {why}", number] for why, number in Counter(findings.failures).most_common()]
    document.table(["outcome", "number"], rows)
    ranked = [one for one in findings.candidates if one.rank is not None]
    trip = section.quality.round_trip
    if ranked and trip.teacher is not None:
        document.paragraph(
            f"Round trip: {sum(one.rank <= trip.rank for one in ranked if one.rank is not None) / len(ranked):.1%} of "
            f"{len(ranked):,} queries find their passage at rank {trip.rank} or better with {trip.teacher.backbone}. "
            "Dev and test queries passed the same filter, so a model that resembles this teacher finds them easier "
            "than users' queries."
        )
    if findings.candidates:
        document.paragraph(
            f"On average {mean(one.leakage for one in findings.candidates):.0%} of a query's different words stand in "
            "its positive."
        )
    if findings.not_judged:
        document.paragraph(f"{findings.not_judged} examples got no usable judgement and stayed.")
    document.heading("Passages")
    named = {_PASSAGES[split]: number for split, number in findings.passages.items()}
    document.table(["passages", "number"], list({**named, **findings.skipped}.items()))


def _say_kinds(document: Document, findings: Findings) -> None:
    document.heading("Kinds and lengths")
    groups: dict[tuple[str, str, str], list[Candidate]] = {}
    for one in findings.candidates:
        groups.setdefault((one.kind, one.length, one.language), []).append(one)
    rows: list[list[str | int]] = []
    for (kind, length, language), group in sorted(groups.items()):
        words = [len(words_of(one.query)) for one in group]
        rows.append([kind, length or "–", language, len(group), _accepted(group), round(median(words))])
    document.table(["kind", "length asked for", "language", "written", "accepted", "median words"], rows)


def _show(document: Document, findings: Findings) -> None:
    document.heading("Examples that were accepted")
    for one in _spread(findings.accepted, _ACCEPTED_SHOWN):
        _show_one(document, one)
    for reason in findings.refused:
        document.heading(f"Refused: {reason}")
        for one in _spread([one for one in findings.candidates if one.refused == reason], _REFUSED_SHOWN):
            _show_one(document, one)
    if findings.unusable:
        document.heading("Answers that could not be used")
        for text in findings.unusable:
            document.quote(text)


def _show_one(document: Document, one: Candidate) -> None:
    rank = f", rank {one.rank}" if one.rank is not None else ""
    judged = f", judged {one.judged}" if one.judged is not None else ""
    where = f", {one.document}" if one.document else ""
    document.paragraph(f"{one.kind}, {one.split}, {one.model}{where}{rank}{judged}, leakage {one.leakage:.0%}")
    parts = [f"query:    {one.query}", f"positive: {_cut(one.positive)}"]
    parts += [f"negative: {_cut(text)}" for text in one.negatives]
    document.quote("\n".join(parts))


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _CHARACTERS else text[:_CHARACTERS] + " …"


def _spread(items: Sequence[Candidate], number: int) -> Iterable[Candidate]:
    return items[:: max(len(items) // number, 1)][:number]


def _accepted(group: Sequence[Candidate]) -> int:
    return sum(not one.refused for one in group)


def _draw(file: Path, findings: Findings) -> None:
    """Three panels: outcomes, kinds, lengths of accepted and refused queries."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    FigureCanvasAgg(figure)
    outcomes, kinds, lengths = figure.subplots(1, 3, width_ratios=[1.2, 1, 1])
    counts = {"accepted": len(findings.accepted), **dict(findings.refused.most_common(6))}
    for why, number in Counter(findings.failures).most_common(3):
        counts[why if len(why) < 40 else why[:38] + " …"] = number
    _bars(outcomes, counts, "What became of them", [_GOOD, *[_BAD] * (len(counts) - 1)])
    by_kind = Counter(one.kind for one in findings.accepted)
    _bars(kinds, dict(by_kind.most_common()), "Accepted by kind", [_GOOD] * len(by_kind))
    for colour, label, wanted in ((_GOOD, "accepted", True), (_BAD, "refused", False)):
        words = [min(len(words_of(one.query)), 60) for one in findings.candidates if (not one.refused) == wanted]
        if words:
            lengths.hist(words, range(0, 64, 3), histtype="step", color=colour, label=label, linewidth=1.6)
    lengths.set_title("How long queries are", loc="left")
    lengths.set_xlabel("words (60 and more in the last bin)")
    if findings.candidates:
        lengths.legend(frameon=False)
    for axes in (outcomes, kinds, lengths):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)


def _bars(axes: Any, counts: Mapping[str, int], title: str, colours: Sequence[str]) -> None:
    drawn = axes.barh(list(counts), list(counts.values()), color=list(colours))
    axes.bar_label(drawn, fmt="{:,.0f}", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_title(title, loc="left")
