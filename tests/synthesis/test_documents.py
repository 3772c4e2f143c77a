"""Documents become passages: formats, headings, length, overlap, and what has no text."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nvembed.core.errors import UserError
from nvembed.recipe import Synthesis
from nvembed.recipe.synthesis import Passages
from nvembed.synthesis.cutting import cut_sections, markdown_sections
from nvembed.synthesis.documents import documents_digest, read_documents


def read(place: Path, **passages: object):  # type: ignore[no-untyped-def]
    return read_documents(Synthesis.model_validate({"documents": str(place), "passages": passages}))


def numbered(first: int, last: int) -> str:
    return " ".join(f"w{number}" for number in range(first, last))


def test_headings_stand_above_their_text_but_not_those_in_code() -> None:
    text = (
        "---\ntitle: x\n---\nIntro.\n\n# Guide\nAll.\n\n## Install ##\nRun it.\n```\n# no heading\n```\n\n"
        "Use\n---\nSo.\n\n# Other\nEnd."
    )

    assert markdown_sections(text) == [
        ((), "Intro."),
        (("Guide",), "All."),
        (("Guide", "Install"), "Run it.\n```\n# no heading\n```"),
        (("Guide", "Use"), "So."),
        (("Other",), "End."),
    ]


def test_a_long_text_is_cut_into_windows_that_overlap_and_lose_no_word() -> None:
    pieces = cut_sections([(("A", "B"), numbered(0, 500))], Passages(words=100, overlap=20, min_words=20))

    bodies = []
    for piece in pieces:
        head, body = piece.split("\n\n", 1)
        assert head == "A > B"
        bodies.append(body.split())
    assert all(20 <= len(body) <= 100 for body in bodies)
    whole = list(bodies[0])
    for before, after in pairwise(bodies):
        assert before[-20:] == after[:20]
        whole += after[20:]
    assert whole == numbered(0, 500).split()


def test_a_window_ends_at_a_sentence_where_there_is_one_near() -> None:
    text = f"{numbered(0, 89)} end. {numbered(90, 200)}"

    first, second, *_ = cut_sections([((), text)], Passages(words=100, overlap=0, min_words=5))

    assert first.endswith("end.") and second.startswith("w90")


@pytest.mark.parametrize("words", range(100, 260, 7))
def test_no_passage_is_too_short_or_too_long(words: int) -> None:
    pieces = cut_sections([((), numbered(0, words))], Passages(words=100, overlap=30, min_words=25))

    assert all(25 <= len(piece.split()) <= 100 for piece in pieces)
    assert {word for piece in pieces for word in piece.split()} == set(numbered(0, words).split())


def test_short_sections_go_with_the_next_and_the_last_with_the_one_before() -> None:
    sections = [
        (("A",), "too short"),
        (("A", "B"), numbered(0, 30)),
        (("C",), numbered(30, 60)),
        (("D",), "a rest"),
    ]

    pieces = cut_sections(sections, Passages(words=100, overlap=0, min_words=20))

    assert pieces == [f"A\n\ntoo short\n\nB\n\n{numbered(0, 30)}", f"C\n\n{numbered(30, 60)}\n\na rest"]


def test_every_format_is_read_and_others_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.md").write_text(f"# Title\n\n{numbered(0, 30)}", encoding="utf-8")
    (tmp_path / "sub" / "b.txt").write_text(f"# no heading here {numbered(30, 60)}", encoding="utf-8")
    rows = [{"title": "T", "text": numbered(60, 90)}, {"title": "no text"}]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\nnot json\n", encoding="utf-8")
    pq.write_table(pa.table({"text": [numbered(90, 120), None]}), tmp_path / "d.parquet")
    (tmp_path / "e.png").write_bytes(b"\x89PNG")
    (tmp_path / ".hidden.md").write_text(numbered(0, 40), encoding="utf-8")
    (tmp_path / "f.txt").write_bytes(b"\xff\xfe broken")
    (tmp_path / "g.txt").write_text("  \n", encoding="utf-8")
    (tmp_path / "h.md").write_text(f"# Title\n\n{numbered(0, 30)}", encoding="utf-8")

    found = read(tmp_path)

    assert [(one.document, one.text) for one in found.passages] == [
        ("a.md", f"Title\n\n{numbered(0, 30)}"),
        ("c.jsonl#0", f"T\n\n{numbered(60, 90)}"),
        ("d.parquet#0", numbered(90, 120)),
        ("sub/b.txt", f"# no heading here {numbered(30, 60)}"),
    ]
    assert found.skipped == {
        "row without text in column 'text'": 2,
        "line that is no JSON object": 1,
        "file that is not UTF-8": 1,
        "document without text": 1,
        "passage that stands twice": 1,
    }
    only = read(tmp_path, formats=["text"])
    assert {one.document for one in only.passages} == {"sub/b.txt"}


def test_the_digest_follows_names_and_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text(numbered(0, 40), encoding="utf-8")
    section = Synthesis(documents=str(tmp_path))
    before = documents_digest(section)
    assert documents_digest(section) == before

    file.write_text(numbered(0, 41), encoding="utf-8")
    changed = documents_digest(section)
    file.rename(tmp_path / "b.txt")

    assert len({before, changed, documents_digest(section)}) == 3


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "holds no file of the formats"),
        ({"a.png": b"x"}, "it has 1 of other kinds"),
        ({"a.txt": b"", "b.md": b"# heading alone\n"}, "holds no text to ask about (2 × document without text)"),
        ({"a.jsonl": b'{"body": "x"}\n'}, "row without text in column 'text'"),
        ({"a.parquet": b"no parquet"}, "cannot be read as Parquet"),
    ],
)
def test_a_folder_without_text_is_refused(files: dict[str, bytes], says: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)

    with pytest.raises(UserError) as told:
        read(tmp_path)
    assert says in str(told.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        read(tmp_path / "none")
