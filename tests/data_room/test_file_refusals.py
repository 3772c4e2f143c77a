"""What is wrong with a user's file is said in one line, at the door and in prepare alike; nothing is left behind."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nvembed.core.errors import UserError
from nvembed.data import check_source, prepare
from nvembed.recipe import Data

GOOD = [{"query": f"question {i}", "positive": f"answer {i}"} for i in range(100)]


def write(path: Path, rows: list) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def refused(path: Path | str, tmp_path: Path, **keys: object) -> str:
    """The one line with which both the door and prepare refuse a file."""
    data = Data.model_validate({"path": str(path), **keys})
    out = tmp_path / "out"
    messages = []
    for attempt in (lambda: check_source(data), lambda: prepare(data, out / "dataset", out / "eval")):
        with pytest.raises(UserError) as caught:
            attempt()
        messages.append(str(caught.value))
    assert not out.exists() or list(out.iterdir()) == []
    assert messages[0] == messages[1]
    assert "\n" not in messages[0]
    assert "data." in messages[0]
    return messages[0]


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "nothing.jsonl", tmp_path)
    assert "no such file" in refused("memory://nothing/here.jsonl", tmp_path)


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    assert "is a folder" in refused(tmp_path / "folder.jsonl", tmp_path)


@pytest.mark.parametrize("name", ["data.jsonl", "data.csv", "data.parquet"])
def test_an_empty_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert "is empty" in refused(tmp_path / name, tmp_path)


def only_a_header(path: Path) -> None:
    path.write_text("query,positive\n")


def no_parquet_rows(path: Path) -> None:
    pq.write_table(pa.table({"query": pa.array([], pa.string()), "positive": pa.array([], pa.string())}), path)


def nothing_packed(path: Path) -> None:
    path.write_bytes(gzip.compress(b""))


@pytest.mark.parametrize(
    ("name", "make"), [("a.csv", only_a_header), ("a.parquet", no_parquet_rows), ("a.jsonl.gz", nothing_packed)]
)
def test_a_file_without_rows(name: str, make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / name)
    assert "has no rows" in refused(tmp_path / name, tmp_path)


def test_a_file_in_which_all_rows_are_the_same(tmp_path: Path) -> None:
    write(tmp_path / "same.jsonl", GOOD[:1] * 200)
    assert "all 200 rows hold the same pair" in refused(tmp_path / "same.jsonl", tmp_path)


def test_too_few_rows_says_how_many_are_needed(tmp_path: Path) -> None:
    write(tmp_path / "few.jsonl", GOOD[:50] * 2)
    message = refused(tmp_path / "few.jsonl", tmp_path)
    assert "50 different queries are too few: 90 are needed" in message
    assert "data.min_test_queries" in message


def test_rows_that_all_answer_with_the_same_passage(tmp_path: Path) -> None:
    write(tmp_path / "one.jsonl", [{**row, "positive": "The  same ANSWER"} for row in GOOD])
    assert "100 of 100 queries hang together" in refused(tmp_path / "one.jsonl", tmp_path)


@pytest.mark.parametrize("name", ["data.jsonl", "data.csv", "data.tsv", "data.parquet"])
def test_a_missing_column_names_those_there_and_the_override_that_mends_it(name: str, tmp_path: Path) -> None:
    rows = [{"Question": f"q{i}", "positive": f"p{i}"} for i in range(200)]
    if name == "data.jsonl":
        write(tmp_path / name, rows)
    elif name == "data.parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    else:
        mark = "," if name == "data.csv" else "\t"
        lines = [mark.join(("Question", "positive")), *(mark.join(row.values()) for row in rows)]
        (tmp_path / name).write_text("\n".join(lines))
    message = refused(tmp_path / name, tmp_path)
    assert "no column 'query'; columns there: Question, positive" in message
    assert "--set data.columns.query=Question" in message


@pytest.mark.parametrize("name", ["data.txt", "data", "data.xlsx", "data.gz"])
def test_a_format_that_is_not_known(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, GOOD)
    assert "must end in .jsonl" in refused(tmp_path / name, tmp_path)


@pytest.mark.parametrize("name", ["data.parquet", "data.jsonl.gz", "data.csv.xz", "data.csv.bz2"])
def test_a_file_that_is_not_what_its_name_says(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, GOOD)
    refused(tmp_path / name, tmp_path)


def test_an_archive_cut_short(tmp_path: Path) -> None:
    text = "".join(json.dumps(row) + "\n" for row in GOOD).encode()
    (tmp_path / "data.jsonl.gz").write_bytes(gzip.compress(text)[:-40])
    assert "cannot be read to its end" in refused(tmp_path / "data.jsonl.gz", tmp_path)


def test_a_scheme_that_does_not_exist(tmp_path: Path) -> None:
    assert "cannot be read" in refused("nosuch://bucket/data.jsonl", tmp_path)


@pytest.mark.parametrize(("path", "package"), [("s3://b/d.jsonl", "s3fs"), ("gs://b/d.jsonl", "gcsfs")])
def test_a_store_whose_package_is_missing_names_the_extra(
    path: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = refused(path, tmp_path)
    assert package in message and "pip install 'nvembed[cloud]'" in message


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    write(tmp_path / "data.jsonl", GOOD)
    (tmp_path / "data.jsonl").chmod(0)
    try:
        (tmp_path / "data.jsonl").read_bytes()
    except PermissionError:
        assert "cannot be read" in refused(tmp_path / "data.jsonl", tmp_path)
    else:
        pytest.skip("this user may read everything")


def test_a_file_that_changed_since_the_recipe_was_resolved(tmp_path: Path) -> None:
    write(tmp_path / "data.jsonl", GOOD)
    digest = check_source(Data(path=str(tmp_path / "data.jsonl"))).digest
    write(tmp_path / "data.jsonl", GOOD[:-1])
    assert "changed since" in refused(tmp_path / "data.jsonl", tmp_path, digest=digest)
