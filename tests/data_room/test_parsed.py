"""A source that was parsed once is not parsed again, and what changed always is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nvembed.data.pydocs import PythonDocs, read_python_docs

MODULE = '"""Add numbers up quickly.\n\nThe values are added one by one, first to last.\n"""\n'


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of one module; the environment is a task's."""
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("NVEMBED_TASK", "prepare_data")
    monkeypatch.setenv("NVEMBED_PROGRESS", str(tmp_path / "progress.jsonl"))
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "sums.py").write_text(MODULE)
    return tmp_path / "library"


def read(library: Path) -> tuple[PythonDocs, bool]:
    """What the library holds, as another process would read it, and whether it was parsed for that."""
    progress = library.parent / "progress.jsonl"
    progress.unlink(missing_ok=True)
    docs = read_python_docs.__wrapped__(library)
    return docs, progress.exists()


def test_what_was_parsed_is_taken_from_the_state_folder(library: Path) -> None:
    first, parsed = read(library)
    assert parsed
    assert read(library) == (first, False)
    assert [(pair.label, pair.query) for pair in first.pairs] == [("sums", "Add numbers up quickly.")]


def test_an_edited_a_new_and_a_renamed_file_are_parsed_anew(library: Path) -> None:
    read(library)
    (library / "sums.py").write_text(MODULE.replace("quickly", "slowly"))
    docs, parsed = read(library)
    assert parsed and docs.pairs[0].query == "Add numbers up slowly."
    (library / "more.py").write_text(MODULE)
    docs, parsed = read(library)
    assert parsed and len(docs.pairs) == 2
    (library / "more.py").rename(library / "other.py")
    docs, parsed = read(library)
    assert parsed and {pair.label for pair in docs.pairs} == {"sums", "other"}


def test_a_damaged_file_of_kept_rows_is_not_believed(library: Path) -> None:
    first, _ = read(library)
    (kept,) = (library.parent / "state").glob("parsed/*/parsed.json")
    record = json.loads(kept.read_text())
    record["value"]["rows"][0][1] = "Something else altogether."
    kept.write_text(json.dumps(record))
    assert read(library) == (first, True)


def test_a_check_at_the_door_leaves_nothing_behind(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NVEMBED_TASK")
    assert read(library)[1]
    assert not (library.parent / "state").exists()
