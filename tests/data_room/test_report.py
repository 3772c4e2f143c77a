"""The report of a dataset: what it says, in Markdown and in one HTML file that needs no other."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nvembed.data import prepare, read_examples
from nvembed.data.document import Document
from nvembed.recipe import Data, load_recipe


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    prepare(load_recipe("tiny").data, out / "dataset", out / "eval")
    return out / "dataset"


class Links(HTMLParser):
    """What a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [str(value) for name, value in attrs if name in ("src", "href")]


def test_it_gives_counts_lengths_drops_and_licences(dataset: Path) -> None:
    text = (dataset / "report.md").read_text()
    counts = json.loads((dataset / "manifest.json").read_text())["counts"]
    for name, number in counts.items():
        assert f"| {name.replace('_', ' ')} | {number:,} |" in text
    assert "| train: near copy of a held-out document |" in text
    assert "| python_docs | PSF-2.0 |" in text
    assert "| test | passage |" in text


def test_it_shows_each_task_under_its_instruction(dataset: Path) -> None:
    text = (dataset / "report.md").read_text()
    for example in {e.task_type: e for e in read_examples(dataset)}.values():
        assert f"    Instruct: {example.query_instruction}\n    Query: " in text
        assert f"{example.task_type}: query, positive" in text


def test_the_page_holds_its_picture_and_loads_nothing(dataset: Path) -> None:
    links = Links()
    links.feed((dataset / "report.html").read_text())
    assert len(links.found) == 1
    assert links.found[0].startswith("data:image/png;base64,")
    assert (dataset / "report.png").read_bytes().startswith(b"\x89PNG")


def test_it_lists_bad_rows_with_their_lines_and_the_watcher_hears_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVEMBED_PROGRESS", str(tmp_path / "progress.jsonl"))
    rows = [json.dumps({"query": f"question {i}", "positive": f"answer <b>{i}</b> | more"}) for i in range(120)]
    rows.insert(9, "not | json")
    (tmp_path / "mine.jsonl").write_text("\n".join(rows))
    data = Data(path=str(tmp_path / "mine.jsonl"), license="CC-BY-4.0")
    prepare(data, tmp_path / "dataset", tmp_path / "eval")
    assert "| 10 | not JSON |" in (tmp_path / "dataset" / "report.md").read_text()
    assert "| mine.jsonl | CC-BY-4.0 |" in (tmp_path / "dataset" / "report.md").read_text()
    told = (tmp_path / "progress.jsonl").read_text()
    assert "1 of 121 rows cannot be used and were dropped (line 10: not JSON)" in told
    assert "<b>" not in (tmp_path / "dataset" / "report.html").read_text(), "the data's own markup is shown, not obeyed"


def test_a_table_keeps_its_cells_apart() -> None:
    document = Document("A & B")
    document.table(["text", "number"], [["one | two", 1234], ["<i>", 5]])
    assert "| one \\| two | 1,234 |" in document.markdown()
    assert "| --- | ---: |" in document.markdown()
    assert "<td>&lt;i&gt;</td>" in document.html()
    assert "<h1>A &amp; B</h1>" in document.html()
