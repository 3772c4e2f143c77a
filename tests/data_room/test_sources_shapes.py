"""What rows of each shape become, and how a cap chooses among them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from mix_fallbacks import write_fallbacks
from mix_stand_in import write_stand_in

from nvembed.data.adapters import SourceReader
from nvembed.data.adapters.sampling import Seen, limit_of, rank
from nvembed.data.example import Example
from nvembed.recipe import Data, load_recipe


def read(path: Path, rows: list[Any], source: dict[str, Any], **more: Any) -> tuple[list[Example], SourceReader]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = {"source": "mix", "sources": {"mine": {"path": str(path), **source}}, **more}
    data = Data.model_validate(tree)
    reader = SourceReader("mine", data.sources["mine"], data)
    return list(reader.examples()), reader


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def pair(example: Example) -> tuple[str, str]:
    return example.query, example.positive


def test_numbered_negatives_are_taken_in_the_order_of_their_numbers(file: Path) -> None:
    row = {"anchor": "q", "positive": "p", "negative_10": "ten", "negative_2": "two", "negative_1": "one"}
    (example,), reader = read(file, [row], {"shape": "triplets"})
    assert example.negatives == ("one", "two", "ten")
    assert reader.open().columns["negatives"] == "negative_1…negative_10"


def test_a_row_of_lists_gives_a_pair_for_each_positive(file: Path) -> None:
    row = {"query": "q", "pos": ["a", "b"], "neg": ["n", "a"]}
    made, _ = read(file, [row], {"shape": "lists"})
    assert [pair(example) for example in made] == [("q", "a"), ("q", "b")]
    assert {example.negatives for example in made} == {("n",)}


def test_a_line_may_be_an_array_and_a_column_a_field_of_it(file: Path) -> None:
    made, _ = read(file, [["title", "body"]], {"columns": {"query": "0", "positive": "1"}})
    assert pair(made[0]) == ("title", "body")
    made, _ = read(file, [{"set": ["q", "a"]}], {"columns": {"query": "set.0", "positive": "set.1"}})
    assert pair(made[0]) == ("q", "a")


def test_texts_are_joined_and_alternatives_tried(file: Path) -> None:
    rows = [{"titles": "T", "abstract": "A", "categories": "cs.LG stat.ML"}]
    rows += [{"titles": f"T{i}", "abstract": "A", "categories": ["cs.LG", "cs.CL"][i % 2]} for i in range(4)]
    source = {
        "shape": "labelled",
        "label_rule": "label-text",
        "label_first": True,
        "task_type": "clustering",
        "columns": {"text": "title+abstract|titles+abstract", "label": "category|categories"},
    }
    made, _ = read(file, rows, source)
    assert (made[0].query, made[0].positive, made[0].negatives) == ("T A", "cs.LG", ("cs.CL",))


def test_pairs_of_score_four_and_more_go_both_ways_with_the_instruction_on_both_sides(file: Path) -> None:
    rows = [{"sentence1": f"a{s}", "sentence2": f"b{s}", "score": s} for s in (3.9, 4.0, 4.8)]
    source = {"shape": "graded", "min_score": 4, "task_type": "sts", "instruction": "Retrieve similar text"}
    made, reader = read(file, rows, source)
    assert [pair(one) for one in made] == [("a4.0", "b4.0"), ("b4.0", "a4.0"), ("a4.8", "b4.8"), ("b4.8", "a4.8")]
    assert all(one.query_instruction == one.document_instruction == "Retrieve similar text" for one in made)
    assert reader.tally.whole.dropped["score below 4"] == 1
    one_way, _ = read(file, rows, {**source, "both_directions": False})
    assert [pair(one) for one in one_way] == [("a4.0", "b4.0"), ("a4.8", "b4.8")]


def test_labels_by_example_take_positives_of_the_class_and_negatives_of_others(file: Path) -> None:
    rows = [{"sentences": [f"{label} {i}" for label in "abc"], "labels": list("abc")} for i in range(5)]
    source = {"shape": "sets", "label_rule": "example-based", "task_type": "clustering"}
    made, _ = read(file, rows, source, example_negatives=4)
    assert len(made) == 15
    for one in made:
        assert one.positive[0] == one.query[0] and one.positive != one.query
        assert len(one.negatives) == 4 and all(text[0] != one.query[0] for text in one.negatives)
        assert one.document_instruction == one.query_instruction


def test_labels_by_text_take_the_other_labels_as_negatives(file: Path) -> None:
    rows = [{"text": f"t{i}", "label": i % 3} for i in range(6)]
    source = {
        "shape": "labelled",
        "label_rule": "label-text",
        "task_type": "classification",
        "labels": ["a_b", "c", "d"],
    }
    made, _ = read(file, rows, source)
    assert (made[0].query, made[0].positive, set(made[0].negatives)) == ("t0", "a b", {"c", "d"})
    assert made[0].document_instruction == ""


def test_one_key_labels_the_whole_mix_otherwise(file: Path) -> None:
    rows = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(6)]
    source = {"shape": "labelled", "label_rule": "example-based", "task_type": "classification"}
    made, _ = read(file, rows, source, label_rule="label-text")
    assert {one.positive for one in made} == {"a", "b"}


def test_a_judged_pair_gets_its_texts_from_two_other_tables(tmp_path: Path) -> None:
    data = load_recipe("nvembed-v2", [f"data.hub_mirror={write_stand_in(tmp_path, 8)}"]).data
    reader = SourceReader("hotpotqa", data.sources["hotpotqa"], data)
    made = list(reader.examples())
    assert len(made) == 16 and len({one.query for one in made}) == 8
    assert reader.lineage()["dropped"] == {"judged not relevant": 1}
    assert "a query of the test split" not in {one.query for one in made}
    assert made[0].positive.startswith("Tides The Moon pulls")  # title and text


def test_an_id_that_is_in_no_table_is_dropped_and_counted(tmp_path: Path) -> None:
    data = load_recipe("nvembed-v2", [f"data.hub_mirror={write_stand_in(tmp_path, 8)}"]).data
    qrels = tmp_path / "mteb" / "fiqa" / "default" / "train.jsonl"
    with qrels.open("a") as stream:
        for row in (("q0", "nowhere"), ("nobody", "d0")):
            stream.write(json.dumps({"query-id": row[0], "corpus-id": row[1], "score": 1.0}) + "\n")
    reader = SourceReader("fiqa", data.sources["fiqa"], data)
    assert len(list(reader.examples())) == 8
    dropped = reader.lineage()["dropped"]
    assert dropped["passage without a text"] == dropped["query without a text"] == 1


def test_a_changed_corpus_changes_the_digest_of_what_is_joined_with_it(tmp_path: Path) -> None:
    data = load_recipe("nvembed-v2", [f"data.hub_mirror={write_stand_in(tmp_path, 8)}"]).data

    def digest() -> str:
        return SourceReader("fiqa", data.sources["fiqa"], data).open().digest

    before = digest()
    with (tmp_path / "mteb" / "fiqa" / "corpus" / "corpus.jsonl").open("a") as stream:
        stream.write(json.dumps({"_id": "more", "title": "", "text": "one more"}) + "\n")
    assert digest() != before


def test_the_fallbacks_shapes_are_read_too(tmp_path: Path) -> None:
    options = [f"data.hub_mirror={write_fallbacks(tmp_path, 8)}", "data.allow_fallback=true"]
    data = load_recipe("nvembed-v2", options).data

    def first(name: str) -> Example:
        return next(iter(SourceReader(name, data.sources[name], data).examples()))

    scored = first("msmarco")  # candidates scored 1, 0.97, 0.5 and 0.4: those below 0.95 are negatives
    assert len(scored.negatives) == 2 and scored.query == "why are there two high tides a day"
    by_ids = first("fever")
    assert by_ids.positive.startswith("The Moon pulls") and len(by_ids.negatives) == 1
    assert first("paq").positive.startswith("The Moon pulls")
    numbered = first("sts12")
    assert len(numbered.negatives) > 1


def test_a_scored_candidate_is_a_negative_below_the_share_also_of_a_negative_score(tmp_path: Path) -> None:
    def write(name: str, rows: list[dict[str, Any]]) -> str:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    texts = write("texts.jsonl", [{"id": i, "text": f"text {i}"} for i in range(5)])
    rows = [{"query_id": 0, "document_ids": [1, 2, 3], "scores": [-1.0, -1.02, -1.2]}]
    source = {"shape": "candidates", "corpus": {"path": texts}, "queries": {"path": texts}}
    made, _ = read(tmp_path / "scores.jsonl", rows, source)
    assert made[0].negatives == ("text 3",)


def test_a_cap_samples_by_content_and_not_by_place(file: Path) -> None:
    rows = [{"query": f"q{i}", "positive": f"p{i}"} for i in range(500)]
    whole, _ = read(file, rows, {})
    kept, reader = read(file, rows, {"cap": 100})
    assert len(kept) == 100 and reader.tally.whole.left_by_cap == 400
    chosen = {one.query for one in kept}
    assert [one for one in whole if one.query in chosen] == kept
    assert 20 < sum(int(query[1:]) < 250 for query in chosen) < 80  # from all over, not the first hundred
    random.Random(3).shuffle(rows)
    assert {one.query for one in read(file, rows, {"cap": 100})[0]} == chosen
    assert {one.query for one in read(file, rows, {"cap": 100}, seed=5)[0]} != chosen
    assert len(read(file, rows, {"cap": 1000})[0]) == 500


def test_a_pair_that_stands_twice_is_taken_once(file: Path) -> None:
    rows = [{"query": "q", "positive": "p"}, {"query": "q", "positive": "p"}, {"query": "q", "positive": "q"}]
    made, reader = read(file, rows, {"cap": 5})
    assert [pair(one) for one in made] == [("q", "p")]
    assert reader.lineage()["dropped"] == {"exact duplicate": 1, "positive equal to its query": 1}


def test_the_caps_limit_is_the_capth_smallest_rank() -> None:
    ranks = [rank("seed", str(number)) for number in range(30_000)]
    assert limit_of(iter(ranks), 700) == sorted(ranks)[699]
    assert limit_of(iter(ranks), 30_000) is None
    assert limit_of(iter(ranks * 2), 700) == sorted(ranks)[699]


def test_what_was_seen_is_remembered_beyond_what_is_held_as_objects() -> None:
    seen, numbers = Seen(young=100), [rank("seed", str(number)) for number in range(1050)]
    assert all(seen.add(number) for number in numbers)
    assert not any(seen.add(number) for number in numbers)
    assert seen.add(0) and seen.add(2**64 - 1) and not seen.add(2**64 - 1)
