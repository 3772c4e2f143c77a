"""What is wrong with a source of a mix is said in one line that names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nvembed.core.errors import UserError
from nvembed.data import check_source
from nvembed.data.adapters import SourceReader, check_mix, open_mix
from nvembed.recipe import Data, load_recipe

PAIRS = [{"query": f"question {i}", "positive": f"answer {i}"} for i in range(20)]
LABELLED = [{"text": f"text {i}", "label": i % 2} for i in range(20)]


def put(mirror: Path, rows: list[dict[str, Any]], repo: str = "o/set", split: str = "train") -> Path:
    path = mirror / repo / "default" / f"{split}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return mirror


def mix(mirror: Path, source: dict[str, Any], **more: Any) -> Data:
    sources = {"mine": {"repo": "o/set", **source}}
    return Data.model_validate({"source": "mix", "sources": sources, "hub_mirror": str(mirror), **more})


def examples(data: Data) -> list[Any]:
    return list(SourceReader("mine", data.sources["mine"], data).examples())


def refused(data: Data) -> str:
    with pytest.raises(UserError) as caught:
        examples(data)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("source mine: ")
    return str(caught.value)


def test_a_dataset_that_is_not_there(tmp_path: Path) -> None:
    assert "o/set in data.hub_mirror" in refused(mix(tmp_path, {}))


def test_a_split_and_a_configuration_that_are_not_there_with_those_that_are(tmp_path: Path) -> None:
    put(tmp_path, PAIRS)
    assert "no split 'dev'; there are train" in refused(mix(tmp_path, {"split": "dev"}))
    assert "no such configuration 'en'; there are default" in refused(mix(tmp_path, {"config": "en"}))


def test_a_pattern_that_fits_two_splits(tmp_path: Path) -> None:
    put(tmp_path, PAIRS, split="msmarco_a")
    put(tmp_path, PAIRS, split="msmarco_b")
    assert "2 splits fit 'msmarco*' (msmarco_a, msmarco_b)" in refused(mix(tmp_path, {"split": "msmarco*"}))


def test_a_renamed_column_is_named_with_the_columns_found(tmp_path: Path) -> None:
    put(tmp_path, [{"frage": "q", "antwort": "a"}])
    said = refused(mix(tmp_path, {"columns": {"query": "query"}}))
    assert "no column 'query' for query; columns there: frage, antwort" in said
    assert "data.sources.mine.columns.query" in said


def test_a_renamed_column_is_found_under_its_other_name_only_where_the_recipe_was_guessing(tmp_path: Path) -> None:
    put(tmp_path, [{"question": f"q{i}", "passage": f"p{i}"} for i in range(5)])
    columns = {"columns": {"query": "query", "positive": "answer"}}
    data = mix(tmp_path, {**columns, "known": {"columns": "M"}})
    reader = SourceReader("mine", data.sources["mine"], data)
    assert [example.positive for example in reader.examples()] == [f"p{i}" for i in range(5)]
    assert reader.open().notes == [
        "query: found 'question' where 'query' was guessed",
        "positive: found 'passage' where 'answer' was guessed",
    ]
    assert "no column 'query'" in refused(mix(tmp_path, {**columns, "known": {"columns": "F"}}))


def test_a_column_that_holds_something_else(tmp_path: Path) -> None:
    put(tmp_path, [{"query": i, "positive": "text"} for i in range(5)])
    assert "column 'query' for query holds number, not text or texts" in refused(mix(tmp_path, {}))


def test_a_role_that_the_shape_does_not_have(tmp_path: Path) -> None:
    put(tmp_path, PAIRS)
    assert "role 'querry'; known here: negatives, positive, query" in refused(
        mix(tmp_path, {"columns": {"querry": "q"}})
    )


LABELS = {"shape": "labelled", "task_type": "classification", "label_rule": "label-text"}


def test_a_label_outside_its_set(tmp_path: Path) -> None:
    put(tmp_path, [*LABELLED, {"text": "odd one", "label": 7}])
    source = {**LABELS, "labels": ["no", "yes"]}
    said = refused(mix(tmp_path, source))
    assert "1 of 21 rows cannot be used (row 21: label '7' is outside its set)" in said
    data = mix(tmp_path, source, max_bad_rows=0.1)
    reader = SourceReader("mine", data.sources["mine"], data)
    assert len(list(reader.examples())) == 20 and reader.tally.whole.unusable == 1


def test_a_label_that_is_a_number_without_a_text(tmp_path: Path) -> None:
    put(tmp_path, LABELLED)
    assert "label 0 has no text; name the labels in data.sources.mine.labels" in refused(mix(tmp_path, LABELS))


def test_labels_in_another_order_than_the_data_has_them(tmp_path: Path) -> None:
    put(tmp_path, [{**row, "label_text": ["negative", "positive"][row["label"]]} for row in LABELLED])
    said = refused(mix(tmp_path, {**LABELS, "labels": ["positive", "negative"]}))
    assert "label 0 is 'negative' in the data but 'positive' in data.sources.mine.labels" in said


def test_a_class_with_a_single_example_is_dropped_and_counted(tmp_path: Path) -> None:
    put(tmp_path, [*LABELLED, {"text": "odd one", "label": 7}])
    data = mix(tmp_path, {**LABELS, "label_rule": "example-based"})
    reader = SourceReader("mine", data.sources["mine"], data)
    assert "odd one" not in {text for e in reader.examples() for text in (e.query, e.positive, *e.negatives)}
    assert reader.lineage()["dropped"] == {"class with a single example": 1}


def test_classes_that_have_a_single_example_all(tmp_path: Path) -> None:
    put(tmp_path, [{"text": f"text {i}", "label": i} for i in range(5)])
    said = refused(mix(tmp_path, {**LABELS, "label_rule": "example-based"}))
    assert "gives no example out of 5 rows (class with a single example: 5)" in said


@pytest.mark.parametrize("cap", [0, -3])
def test_a_cap_of_nothing(cap: int) -> None:
    with pytest.raises(UserError, match=rf"data.sources.nq: cap is {cap}: give a positive number"):
        load_recipe("nvembed-v2", [f"data.sources.nq.cap={cap}"])


def test_two_sources_of_one_name() -> None:
    text = "extends: nvembed-v2\nname: mine\ndata:\n  sources:\n    a: {repo: o/a}\n    a: {repo: o/b}\n"
    with pytest.raises(UserError, match="key 'a' is given twice"):
        load_recipe(text)


def test_a_licence_that_the_recipe_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, PAIRS)
    put(tmp_path, PAIRS, repo="o/other")
    sources = {
        "mine": {"repo": "o/set", "license": "mit", "rows": 300},
        "theirs": {"repo": "o/other", "license": "cc-by-nc-4.0", "rows": 100},
    }
    tree = {"source": "mix", "sources": sources, "hub_mirror": str(tmp_path), "forbid_licenses": ["non-commercial"]}
    data = Data.model_validate(tree)
    assert [reader.name for reader in open_mix(data)] == ["mine"]
    states = {state.name: state for state in check_mix(data).states}
    assert states["theirs"].says == ["licence cc-by-nc-4.0 is refused by 'non-commercial'"]
    with pytest.raises(ValueError, match=r"forbid_licenses leaves no source \(mine is mit, refused by 'm\*'\)"):
        Data.model_validate({**tree, "forbid_licenses": ["non-commercial", "m*"]})


def test_a_fallback_is_named_but_read_only_where_the_recipe_allows_it(tmp_path: Path) -> None:
    put(tmp_path, [{"query": "q", "pos": ["p"], "neg": ["n"]}], repo="o/collection", split="mine")
    source = {"fallback": [{"repo": "o/gone"}, {"repo": "o/collection", "split": "mine", "shape": "lists"}]}
    said = refused(mix(tmp_path, source))
    assert said.endswith("with data.allow_fallback=true o/gone, o/collection mine would be read in its place")
    data = mix(tmp_path, source, allow_fallback=True)
    reader = SourceReader("mine", data.sources["mine"], data)
    (example,) = reader.examples()
    assert (example.query, example.positive, example.negatives) == ("q", "p", ("n",))
    assert reader.lineage()["notes"][0].startswith("source mine: reads its fallback o/collection mine, since source")


def test_a_broken_row_is_counted_and_many_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "o" / "set" / "default"
    folder.mkdir(parents=True)
    lines = [json.dumps(row) for row in PAIRS]
    (folder / "train.jsonl").write_text("\n".join([*lines, "{broken", '{"query": "no answer"}']) + "\n")
    said = refused(mix(tmp_path, {}))
    assert "2 of 22 rows cannot be used (row 21: not JSON; row 22: no positive)" in said
    assert len(examples(mix(tmp_path, {}, max_bad_rows=0.1))) == 20


def test_a_mix_that_cannot_be_had_ends_a_run_at_its_door(tmp_path: Path) -> None:
    put(tmp_path, PAIRS)
    good = check_source(mix(tmp_path, {"rows": 20}))
    assert good.rows == 20 and len(good.digest) == 64
    with pytest.raises(UserError, match=r"source mine: o/set in data.hub_mirror .* no split 'dev'"):
        check_source(mix(tmp_path, {"split": "dev"}))


def test_changed_data_changes_the_digest(tmp_path: Path) -> None:
    data = mix(put(tmp_path, PAIRS), {})
    before = check_source(data).digest
    put(tmp_path, [*PAIRS, {"query": "one more", "positive": "answer"}])
    assert check_source(data).digest != before
