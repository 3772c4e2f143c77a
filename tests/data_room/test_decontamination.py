"""What the model is judged by is not in what it learns from; what was dropped is told."""

from __future__ import annotations

import json
import random

import mteb
import pytest
from mteb.mocks.mock_tasks import classification, clustering, pair_classification, retrieval, sts, summarization

from nvembed.core.errors import UserError
from nvembed.data.decontamination import Decontaminator
from nvembed.data.example import Example
from nvembed.data.references import Reference, read_references, task_texts
from nvembed.recipe.decontamination import Decontamination

JUDGED = "the quick brown fox jumps over the lazy dog near the old river bank"
OTHER = "an entirely different sentence about the weather in the mountains last winter"


def example(query: str, positive: str, *negatives: str, task_type: str = "retrieval", source: str = "a") -> Example:
    made = {"task": "t", "task_type": task_type, "instruction": "i", "source": source, "license": "none"}
    return Example.make(query=query, positive=positive, negatives=negatives, **made)


def cleaner(*texts: str, **section) -> Decontaminator:
    return Decontaminator(Decontamination(**section), [Reference("Judge", text) for text in texts or (JUDGED,)])


def test_an_example_whose_query_or_positive_is_judged_goes_and_a_negative_goes_alone():
    examples = [
        example(JUDGED.upper(), OTHER),
        example("a question", f"{OTHER} {JUDGED} {OTHER}"),
        example("a question", OTHER, JUDGED, "another text"),
        example("a question", OTHER, "another text"),
    ]
    cleaned = cleaner().clean(examples)
    assert [e.query for e in cleaned.examples] == ["a question", "a question"]
    assert [e.negatives for e in cleaned.examples] == [("another text",), ("another text",)]
    assert cleaned.examples[0].id == examples[2].id
    assert [(d.field, d.kind, d.task) for d in cleaned.dropped] == [
        ("query", "exact", "Judge"),
        ("positive", "near", "Judge"),
        ("negative", "exact", "Judge"),
    ]
    assert cleaned.dropped[1].evaluation_text == JUDGED
    assert cleaned.counts() == {"a: negative (exact)": 1, "a: positive (near)": 1, "a: query (exact)": 1}


def test_a_label_is_not_a_text():
    judged = ("joy", JUDGED)
    labelled = example("I am glad of it all", "joy", "anger", task_type="classification")
    assert cleaner(*judged).clean([labelled]).examples == [labelled]
    text_as_positive = example("I am glad of it all", JUDGED, task_type="classification")
    assert cleaner(*judged).clean([text_as_positive]).examples == []
    assert cleaner(*judged).clean([example("what is joy", "joy")]).examples == [], "of a passage it is"


def test_bm25_drops_close_queries_of_the_sources_it_is_told_to():
    shuffled = " ".join(random.Random(0).sample(JUDGED.split(), len(JUDGED.split())))
    examples = [example(shuffled, OTHER, source="Emotion"), example(shuffled, OTHER, source="other")]
    references = (
        JUDGED,
        "a second text of the lake and the boats that were lost on it",
        "some third text with quite other words in it",
    )
    assert len(cleaner(*references).clean(examples).examples) == 2, "word pairs are gone: only BM25 can see it"
    cleaned = cleaner(*references, bm25={"Emotion": 0.8}).clean(examples)
    assert [e.source for e in cleaned.examples] == ["other"]
    (dropped,) = cleaned.dropped
    assert (dropped.kind, dropped.evaluation_text) == ("bm25", JUDGED)
    assert dropped.similarity == pytest.approx(1, abs=1e-4), "the same bag of words has the text's score with itself"
    assert (
        len(cleaner(*references, bm25={"Emotion": 0.8}).clean([example(OTHER[:30], "x", source="Emotion")]).examples)
        == 1
    )


def test_what_was_checked_is_told_by_task_with_a_digest_that_follows_the_texts():
    one, two = cleaner(JUDGED).checked_against(), cleaner(JUDGED, OTHER).checked_against()
    assert one["Judge"]["texts"] == 1 and two["Judge"]["texts"] == 2
    assert one["Judge"]["digest"] != two["Judge"]["digest"]
    assert cleaner(OTHER, JUDGED).checked_against() == two


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (retrieval.MockRetrievalTask, {"This is a test sentence", "This is another test sentence"}),
        (classification.MockClassificationTask, None),
        (clustering.MockClusteringTask, None),
        (clustering.MockMultilingualClusteringFastTask, None),
        (pair_classification.MockPairClassificationTask, None),
        (sts.MockSTSTask, None),
        (summarization.MockSummarizationTask, None),
    ],
)
def test_every_kind_of_mteb_task_gives_its_texts(kind, expected):
    texts = list(task_texts(kind()))
    assert texts and all(isinstance(text, str) and text.strip() for text in texts)
    if expected is not None:
        assert set(texts) == expected, "queries alone, not the corpus"


def test_unknown_tasks_are_refused_with_the_nearest_known_one():
    with pytest.raises(UserError, match=r"'STSBenchmrk' is no task.*did you mean 'STSBenchmark'"):
        read_references(Decontamination(tasks=["STSBenchmrk"]))


def test_benchmarks_stand_for_their_tasks():
    from nvembed.data.references import _tasks

    names = [task.metadata.name for task in _tasks(["MTEB(eng, v2)", "STS12"])]
    wanted = [
        part.metadata.name
        for task in mteb.get_benchmark("MTEB(eng, v2)").tasks
        for part in getattr(task, "tasks", [task])
    ]
    assert names == list(dict.fromkeys([*wanted, "STS12"]))


def test_files_are_read_by_their_texts_and_folders_by_their_queries(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    rows = {"queries": [{"_id": "1", "text": JUDGED}], "corpus": [{"_id": "2", "text": OTHER}]}
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    file = tmp_path / "texts.csv"
    file.write_text(f"text,label\n{OTHER},3\n")
    assert read_references(Decontamination(files=[str(folder), str(file)])) == [
        Reference("own", JUDGED),
        Reference("texts.csv", OTHER),
    ]


def test_a_file_without_texts_is_refused(tmp_path):
    (tmp_path / "none.jsonl").write_text('{"label": 1}\n')
    with pytest.raises(UserError, match="holds no texts"):
        read_references(Decontamination(files=[str(tmp_path / "none.jsonl")]))
