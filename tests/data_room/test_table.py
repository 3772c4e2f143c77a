"""Examples read one by one from disk are those of the list, and so are batches of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training.support import make_dataset, make_examples

from nvembed.core.errors import UserError
from nvembed.data import BatchSampler, Example, ExampleTable, open_examples, read_examples, table
from nvembed.data.columns import InMemory
from nvembed.data.lengths import Lengths
from nvembed.recipe import Batches


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two task types in five parts, of which all but the last are longer than a record batch."""
    folder = tmp_path_factory.mktemp("table")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NVEMBED_STATE", str(folder / "state"))
        patch.setattr("nvembed.data.store.ROWS_A_PART", 60)
        patch.setattr(table, "ROWS_A_BATCH", 25)
        examples = make_examples(160) + make_examples(90, task_type="classification", seed=2)
        yield make_dataset(folder / "dataset", examples)


def test_rows_are_those_of_the_dataset(dataset: Path) -> None:
    examples, rows = read_examples(dataset), open_examples(dataset)
    assert len(rows) == len(examples) == 250
    assert list(rows) == examples
    assert [rows[i] for i in (249, 0, 60, 59, -1)] == [examples[i] for i in (249, 0, 60, 59, -1)]
    assert rows[120:131] == examples[120:131]
    with pytest.raises(IndexError):
        rows[250]


def test_columns_are_those_of_the_list(dataset: Path) -> None:
    rows, listed = open_examples(dataset), InMemory(read_examples(dataset))
    for field in ("task", "source", "task_type"):
        (numbers, names), (expected, known) = rows.codes(field), listed.codes(field)
        assert names == known and np.array_equal(numbers, expected)
    for field in ("id", "query", "positive"):
        assert np.array_equal(rows.keys(field), listed.keys(field))
    for lengths in (Lengths(), Lengths(negatives=1, query_max_length=9, document_max_length=30), Lengths(negatives=0)):
        assert np.array_equal(rows.tokens(lengths), listed.tokens(lengths))
    assert rows.negatives().tolist() == [len(example.negatives) for example in listed.examples]


@pytest.mark.parametrize(
    "keys", [{}, {"mode": "one-dataset", "group_by_length": True}, {"weights": {"words": 1.5}, "distinct_texts": True}]
)
def test_batches_are_those_of_the_list(dataset: Path, keys: dict[str, Any]) -> None:
    types = ["retrieval", "classification"]
    ours = BatchSampler(open_examples(dataset), 12, 5, types, Batches(**keys))
    listed = BatchSampler(read_examples(dataset), 12, 5, types, Batches(**keys))
    assert [ours.batch(step) for step in range(50)] == [listed.batch(step) for step in range(50)]


def unpacked(state: Path) -> dict[str, int]:
    """The state folder's Arrow files: name → inode, which is another once a file is written again."""
    return {path.name: path.stat().st_ino for path in (state / "examples").glob("*/*.arrow")}


def test_an_unpacking_that_was_cut_short_goes_on_and_a_second_opening_unpacks_nothing(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    third = copy / "train" / "part-00002.parquet"
    content = third.read_bytes()
    third.write_bytes(content[:-200] + b"PAR1")
    with pytest.raises(UserError, match=r"part-00002\.parquet: cannot be read"):
        open_examples(copy)
    before = unpacked(tmp_path / "state")
    assert sorted(before) == ["part-00000.arrow", "part-00001.arrow"]
    third.write_bytes(content)
    assert list(open_examples(copy)) == read_examples(dataset)
    after = unpacked(tmp_path / "state")
    assert len(after) == 5 and before.items() <= after.items()
    assert len(open_examples(copy)) == 250
    assert unpacked(tmp_path / "state") == after


def test_unpacked_files_that_were_damaged_are_refused_with_the_folder_to_remove(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path))
    open_examples(dataset)
    file = next((tmp_path / "examples").glob("*/part-00003.arrow"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{file.parent}: unpacked examples are damaged .*; remove this folder"):
        open_examples(dataset)


def _open(folder: str) -> int:
    return len(open_examples(folder))


def test_processes_that_open_at_once_unpack_once(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path))
    with get_context("fork").Pool(3) as pool:
        assert pool.map(_open, [str(dataset)] * 3) == [250] * 3
    assert sorted(path.name for path in (tmp_path / "examples").glob("*/*.arrow")) == [
        f"part-0000{number}.arrow" for number in range(5)
    ]


def test_another_content_is_unpacked_anew(dataset: Path, tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "other", make_examples(12, seed=9))
    assert list(open_examples(other)) == read_examples(other) != list(open_examples(dataset))[:12]


def test_a_part_that_is_no_dataset_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "part-00000.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"part-00000\.parquet: cannot be read"):
        open_examples(tmp_path)


def test_a_row_of_the_table_is_an_example_with_a_tuple_of_negatives(dataset: Path) -> None:
    rows = open_examples(dataset)
    assert isinstance(rows, ExampleTable)
    assert isinstance(rows[7], Example) and isinstance(rows[7].negatives, tuple)
