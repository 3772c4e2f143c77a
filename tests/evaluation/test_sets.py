"""An eval folder that would give a number without a meaning is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nvembed.core.errors import UserError
from nvembed.evaluation.sets import read_sets


@pytest.fixture
def folder(tmp_path: Path, make_eval_folder: Callable[..., Path]) -> Path:
    return make_eval_folder(tmp_path / "eval")


def rewrite(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(file)), file)


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        read_sets(folder, ["dev", "test"])
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_whole_folder_is_read_in_the_order_of_splits_and_names(folder: Path) -> None:
    sets = read_sets(folder, ["test", "dev"])
    assert [(s.split, s.name) for s in sets] == [
        (split, name) for split in ("test", "dev") for name in ("classification", "clustering", "retrieval")
    ]
    assert len(sets[2].corpus) == 40 and sets[0].label_names == ("chess", "cooking", "gardens", "sailing")


def test_a_split_without_tasks_is_refused(tmp_path: Path) -> None:
    assert "no tasks under dev" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["corpus", "queries", "qrels"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / "test" / "retrieval" / f"{name}.parquet").unlink()
    assert f"{name}.parquet: missing" in refusal(folder)


@pytest.mark.parametrize("name", ["corpus", "queries", "qrels"])
def test_an_empty_corpus_queries_or_qrels_is_refused(folder: Path, name: str) -> None:
    rewrite(folder / "test" / "retrieval" / f"{name}.parquet", lambda table: table.slice(0, 0))
    assert f"{name}.parquet: empty" in refusal(folder)


@pytest.mark.parametrize(("column", "file"), [("query_id", "queries"), ("corpus_id", "corpus")])
def test_qrels_that_name_unknown_ids_are_refused(folder: Path, column: str, file: str) -> None:
    def change(table: pa.Table) -> pa.Table:
        return table.set_column(
            table.column_names.index(column), column, pa.array(["nobody", *table[column].to_pylist()[1:]])
        )

    rewrite(folder / "test" / "retrieval" / "qrels.parquet", change)
    message = refusal(folder)
    assert "'nobody'" in message and f"{file}.parquet does not hold" in message


def test_qrels_without_a_relevant_document_are_refused(folder: Path) -> None:
    rewrite(
        folder / "test" / "retrieval" / "qrels.parquet",
        lambda table: table.set_column(2, "score", pa.array([0] * len(table))),
    )
    assert "no query has a relevant document" in refusal(folder)


def test_an_id_given_twice_is_refused(folder: Path) -> None:
    rewrite(folder / "dev" / "retrieval" / "corpus.parquet", lambda table: pa.concat_tables([table, table.slice(0, 1)]))
    assert "1 ids are given twice" in refusal(folder)


def test_a_missing_column_is_named_with_those_there_are(folder: Path) -> None:
    rewrite(folder / "test" / "clustering" / "test.parquet", lambda table: table.rename_columns(["text", "topic"]))
    assert "no column 'label'; it has text, topic" in refusal(folder)


def test_a_label_that_was_never_trained_is_refused(folder: Path) -> None:
    rewrite(
        folder / "test" / "classification" / "train.parquet",
        lambda table: table.filter(pa.compute.not_equal(table["label"], "chess")),
    )
    assert "'chess' is in test.parquet but not in train.parquet" in refusal(folder)


def test_an_unknown_type_or_metric_is_refused(folder: Path) -> None:
    file = folder / "test" / "clustering" / "task.json"
    head = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**head, "main_score": "map"}), encoding="utf-8")
    assert "'map' is not known for Clustering" in refusal(folder)
    file.write_text(json.dumps({**head, "type": "Guessing"}), encoding="utf-8")
    assert "a type out of Retrieval, Classification, Clustering" in refusal(folder)
