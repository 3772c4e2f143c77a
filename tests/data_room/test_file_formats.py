"""A user's own file, in every format and place: the same rows give the same pairs."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nvembed.core.errors import UserError
from nvembed.data import check_source
from nvembed.data.example import Pair
from nvembed.data.files import FilePairs, sample
from nvembed.recipe import Data
from nvembed.recipe.schema import Columns

ROWS = [{"query": f"frage {i}, ä\n“x”", "positive": f"answer {i}\twith, commas"} for i in range(100)]
PAIRS = [Pair(row["query"], row["positive"]) for row in ROWS]


def jsonl(rows: list) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def separated(rows: list[dict], delimiter: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0].keys(), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(rows: list[dict]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


FORMATS = {
    "data.jsonl": jsonl(ROWS),
    "data.ndjson": jsonl(ROWS),
    "data.json": b"\xef\xbb\xbf" + jsonl(ROWS),
    "data.jsonl.gz": gzip.compress(jsonl(ROWS)),
    "data.jsonl.bz2": bz2.compress(jsonl(ROWS)),
    "data.jsonl.xz": lzma.compress(jsonl(ROWS)),
    "data.csv": separated(ROWS, ","),
    "data.csv.gz": gzip.compress(separated(ROWS, ",")),
    "excel.csv": b"\xef\xbb\xbf" + separated(ROWS, ","),
    "data.tsv": separated(ROWS, "\t"),
    "data.parquet": parquet(ROWS),
    "DATA.Parquet": parquet(ROWS),
}


def pairs(path: str | Path, **keys: object) -> list[Pair]:
    return list(FilePairs(Data.model_validate({"path": str(path), **keys})))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_pairs(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FORMATS[name])
    assert pairs(tmp_path / name) == PAIRS
    check = check_source(Data(path=str(tmp_path / name)))
    assert (check.rows, check.bad, check.duplicates) == (100, 0, 0)


@pytest.mark.parametrize("scheme", ["memory://folder/", "file://"])
@pytest.mark.parametrize("name", ["data.jsonl.gz", "data.csv", "data.parquet"])
def test_a_file_elsewhere_is_read_through_fsspec(scheme: str, name: str, tmp_path: Path) -> None:
    path = f"{scheme}{name}" if scheme.startswith("memory") else f"{scheme}{tmp_path}/{name}"
    with fsspec.open(path, "wb") as stream:
        stream.write(FORMATS[name])
    assert pairs(path) == PAIRS
    first = check_source(Data(path=path)).digest
    assert check_source(Data(path=path)).digest == first
    changed = {"data.jsonl.gz": gzip.compress(jsonl(ROWS[1:])), "data.csv": separated(ROWS[1:], ",")}
    with fsspec.open(path, "wb") as stream:
        stream.write(changed.get(name) or parquet(ROWS[1:]))
    assert check_source(Data(path=path)).digest != first


@pytest.mark.parametrize("name", ["data.jsonl", "data.csv", "data.parquet"])
def test_columns_may_have_other_names(name: str, tmp_path: Path) -> None:
    rows = [{"question": row["query"], "answer": row["positive"], "extra": "x"} for row in ROWS]
    content = {"data.jsonl": jsonl(rows), "data.csv": separated(rows, ","), "data.parquet": parquet(rows)}[name]
    (tmp_path / name).write_bytes(content)
    assert pairs(tmp_path / name, columns=Columns(query="question", positive="answer")) == PAIRS


def test_every_query_of_a_row_goes_with_every_positive(tmp_path: Path) -> None:
    row = {"query": ["a?", "b?"], "positive": ["one", "two", " one "], "negatives": ["no", "two", ""]}
    (tmp_path / "data.jsonl").write_bytes(jsonl([row]))
    found = pairs(tmp_path / "data.jsonl")
    assert [(p.query, p.positive) for p in found] == [("a?", "one"), ("a?", "two"), ("b?", "one"), ("b?", "two")]
    assert {p.negatives for p in found} == {("no",)}, "a positive of the row is no negative of it"


def test_a_csv_cell_may_hold_a_json_list(tmp_path: Path) -> None:
    rows = [{"query": "[not a list", "positive": '["one", "two"]', "negatives": "no"}]
    (tmp_path / "data.csv").write_bytes(separated(rows, ","))
    assert pairs(tmp_path / "data.csv") == [Pair("[not a list", text, ("no",)) for text in ("one", "two")]


def test_a_task_type_is_taken_as_such_and_another_name_is_a_retrieval_task(tmp_path: Path) -> None:
    rows = [{"query": f"q{i}", "positive": "p", "task": task} for i, task in enumerate(["sts", "faq", None, ""])]
    (tmp_path / "data.jsonl").write_bytes(jsonl(rows))
    assert [(p.task, p.task_type) for p in pairs(tmp_path / "data.jsonl")] == [
        ("sts", "sts"),
        ("faq", "retrieval"),
        ("retrieval", "retrieval"),
        ("retrieval", "retrieval"),
    ]


def test_exact_duplicates_are_dropped_and_counted(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(jsonl([*ROWS, *ROWS[:7]]))
    assert pairs(tmp_path / "data.jsonl") == PAIRS
    assert check_source(Data(path=str(tmp_path / "data.jsonl"))).duplicates == 7


BAD_LINES = [
    (b"", "empty row"),
    (b"   ", "empty row"),
    (b'{"query": "caf\xe9", "positive": "x"}', "not UTF-8"),
    (b'{"query": "lone \\ud800", "positive": "x"}', "not UTF-8"),
    (b"{'query': 'x'}", "not JSON"),
    (b'{"query": "x", "positive": "y"', "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'["x", "y"]', "a JSON array, not an object"),
    (b"17", "a JSON number, not an object"),
    (b'{"query": "x"}', "no positive"),
    (b'{"query": null, "positive": "y"}', "no query"),
    (b'{"query": "  ", "positive": "y"}', "empty query"),
    (b'{"query": "x", "positive": []}', "empty positive"),
    (b'{"query": 3, "positive": "y"}', "query is a number, not text"),
    (b'{"query": "x", "positive": {"a": 1}}', "positive is an object, not text"),
    (b'{"query": ["x", ["z"]], "positive": "y"}', "query is a list, not text"),
    (b'{"query": "x", "positive": "y", "negatives": true}', "negatives is a boolean, not text"),
    (b'{"query": "x", "positive": "y", "task": 4}', "task is a number, not text"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
def test_a_bad_row_is_dropped_and_listed_with_its_line_and_reason(line: bytes, reason: str, tmp_path: Path) -> None:
    lines = jsonl(ROWS).splitlines(keepends=True)
    (tmp_path / "data.jsonl").write_bytes(b"".join([*lines[:41], line + b"\n", *lines[41:]]))
    check = check_source(Data(path=str(tmp_path / "data.jsonl")))
    assert [str(row) for row in check.bad_rows] == [f"line 42: {reason}"]
    assert (check.rows, check.bad) == (101, 1)
    assert pairs(tmp_path / "data.jsonl") == PAIRS


def test_bad_rows_of_csv_have_the_line_on_which_they_start(tmp_path: Path) -> None:
    lines = ["query,positive", '"two', 'lines",x', "only one", ",", "caf\udce9,x", "good,row"]
    content = "\n".join(lines).encode("utf-8", "surrogateescape")
    (tmp_path / "data.csv").write_bytes(content)
    reader = FilePairs(Data(path=str(tmp_path / "data.csv"), max_bad_rows=1))
    assert list(reader) == [Pair("two\nlines", "x"), Pair("good", "row")]
    assert [str(row) for row in reader.bad_rows] == [
        "line 4: 1 fields where the header has 2",
        "line 5: empty row",
        "line 6: not UTF-8",
    ]


def test_a_field_that_never_ends_costs_rows_not_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvembed.data.rows._LONGEST_FIELD", 1000)
    (tmp_path / "data.csv").write_bytes(b'query,positive\na,b\n"never closed' + b"x" * 5000 + b"\nc,d\n")
    reader = FilePairs(Data(path=str(tmp_path / "data.csv"), max_bad_rows=1))
    assert Pair("a", "b") in list(reader)
    assert "not CSV" in str(reader.bad_rows[0])


def test_rows_of_parquet_that_are_no_text_are_bad_rows(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffc")]
    )
    table = pa.table({"query": broken, "positive": ["x", "y", None]})
    pq.write_table(table, tmp_path / "data.parquet")
    reader = FilePairs(Data(path=str(tmp_path / "data.parquet"), max_bad_rows=1))
    assert list(reader) == [Pair("a", "x")]
    assert [str(row) for row in reader.bad_rows] == ["line 2: not UTF-8", "line 3: no positive"]


def test_many_bad_rows_are_all_counted_and_the_first_listed(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(jsonl(ROWS) + b"nonsense\n" * 50)
    check = check_source(Data(path=str(tmp_path / "data.jsonl"), max_bad_rows=0.5))
    assert check.bad == 50
    assert [row.line for row in check.bad_rows] == list(range(101, 121))


def test_more_bad_rows_than_the_recipe_allows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(jsonl(ROWS) + b"nonsense\n" * 2)
    with pytest.raises(UserError, match=r"2 of 102 rows .*line 101: not JSON; line 102.*data\.max_bad_rows = 0\.01"):
        check_source(Data(path=str(tmp_path / "data.jsonl")))


def test_a_sample_is_drawn_by_seed_and_keeps_the_order() -> None:
    drawn = list(sample(PAIRS, 20, 1))
    assert len(drawn) == 20
    assert drawn == sorted(drawn, key=PAIRS.index)
    assert drawn != list(sample(PAIRS, 20, 2))
    assert list(sample(reversed(PAIRS), 20, 1)) == drawn[::-1], "the draw does not depend on the rows' order"
