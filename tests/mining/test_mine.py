"""A dataset folder goes in, the same folder with hard negatives comes out, and nothing else changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from mining_stand_in import TEACHER, TEXTS, dataset, example, section

from nvembed.core.artifacts import read_manifest, write_manifest
from nvembed.core.digests import digest_folder
from nvembed.core.errors import UserError
from nvembed.data import read_corpus, read_examples, write_examples
from nvembed.data.store import corpus_schema, document_id, text_schema, write_table
from nvembed.mining import mine
from nvembed.mining.rules import normalise
from nvembed.modeling import NVEmbedModel
from nvembed.modeling.encoder import Encoder
from nvembed.recipe import Resources


def run(folder: Path, out: Path, **values: object) -> Path:
    mine(section(**values), Resources(device="cpu"), folder, out)
    return out


def folder_rows(folder: Path) -> list[dict[str, object]]:
    return pq.read_table(folder / "corpus").to_pylist()


def scores_of(out: Path) -> list[dict[str, object]]:
    return pq.read_table(out / "train" / "part-00000.parquet").to_pylist()


def similarity(queries: list[str], documents: list[str]) -> np.ndarray:
    """The teacher's cosines, by the model itself."""
    teacher = NVEmbedModel.from_card(TEACHER, max_length=64)
    return teacher.encode(queries, precision="auto") @ teacher.encode(documents, precision="auto").T


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "progress.jsonl"
    monkeypatch.setenv("NVEMBED_PROGRESS", str(file))

    def read() -> list[str]:
        events = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [event["text"] for event in events if event["event"] == "note"]

    return read


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    examples = [example(f"How to {text.lower()}", text) for text in TEXTS[:20]]
    return dataset(tmp_path / "dataset", examples, TEXTS)


@pytest.mark.parametrize(
    ("method", "threshold", "bound"),
    [
        ("naive", 0.95, lambda positive: np.inf),
        ("absolute", 0.85, lambda positive: 0.85),
        ("margin", 0.05, lambda positive: positive - 0.05),
        ("percentage", 0.95, lambda positive: positive * 0.95 if positive >= 0 else positive * 1.05),
    ],
)
def test_the_nearest_passages_below_the_rules_bound_become_negatives(plain, tmp_path, method, threshold, bound) -> None:
    out = run(plain, tmp_path / "out", method=method, threshold=threshold)
    examples, corpus = read_examples(plain), list(read_corpus(plain).values())
    scores = similarity([e.query for e in examples], corpus)
    short = 0
    for row, before, after in zip(scores, examples, read_examples(out), strict=True):
        positive = row[corpus.index(before.positive)]
        ranked = sorted(zip(row, corpus, strict=True), reverse=True)
        eligible = [t for s, t in ranked if s < bound(positive) and normalise(t) not in {before.positive, before.query}]
        assert after.negatives == tuple(t for t in eligible if normalise(t) != normalise(before.positive))[:3]
        short += len(after.negatives) < 3
    assert short < len(examples)


def test_scores_stand_beside_the_texts(plain: Path, tmp_path: Path) -> None:
    out = run(plain, tmp_path / "out", method="naive")
    for row in scores_of(out):
        expected = similarity([str(row["query"])], [str(row["positive"]), *row["negatives"]])[0]  # type: ignore[misc]
        assert row["positive_score"] == pytest.approx(expected[0], abs=1e-2)
        assert row["negative_scores"] == pytest.approx(expected[1:].tolist(), abs=1e-2)
        assert row["negative_scores"] == sorted(row["negative_scores"], reverse=True)  # type: ignore[type-var]


def test_no_positive_of_a_query_is_a_negative_in_any_of_its_rows(tmp_path: Path) -> None:
    examples = [example("Close things", text) for text in TEXTS[:6]] + [example(" close  THINGS", TEXTS[6])]
    folder = dataset(tmp_path / "dataset", examples, [*TEXTS, "close things!", "CLOSE things"])
    for row in read_examples(run(folder, tmp_path / "out", method="naive", num_negatives=60, near_copies=None)):
        assert {normalise(text) for text in row.negatives}.isdisjoint(normalise(text) for text in TEXTS[:7])
        assert "CLOSE things" not in row.negatives  # the query itself
        assert "close things!" in row.negatives


def test_the_smallest_of_several_positives_sets_the_bound(tmp_path: Path) -> None:
    examples = [example("Close things", text) for text in TEXTS[:6]]
    out = run(dataset(tmp_path / "dataset", examples, TEXTS), tmp_path / "out", method="margin", threshold=0.0)
    rows = scores_of(out)
    smallest = min(row["positive_score"] for row in rows)
    assert len({row["positive_score"] for row in rows}) > 1
    assert all(score < smallest for row in rows for score in row["negative_scores"])


def test_the_users_own_negatives_stay_first_and_mining_fills_up(tmp_path: Path) -> None:
    own = ("A text of my own", TEXTS[9])
    examples = [example("Close the socket", TEXTS[2], *own), example("Copy", TEXTS[4], *TEXTS[10:15])]
    out = run(dataset(tmp_path / "dataset", examples, TEXTS), tmp_path / "out", method="naive")
    first, second = read_examples(out)
    assert first.negatives[:2] == own
    assert len(first.negatives) == 3
    assert first.negatives[2] in TEXTS
    assert second.negatives == tuple(TEXTS[10:15])
    assert [len(row["negative_scores"]) for row in scores_of(out)] == [3, 5]


def test_a_users_negative_that_is_a_positive_is_left_out_and_said(tmp_path: Path, notes) -> None:
    examples = [example("Close it", TEXTS[2], TEXTS[3], "Fine"), example("Close it", TEXTS[3])]
    folder = dataset(tmp_path / "dataset", examples, TEXTS)
    first = read_examples(run(folder, tmp_path / "out", method="naive"))[0]
    assert first.negatives[0] == "Fine"
    assert TEXTS[3] not in first.negatives
    assert any("1 negatives that came with the data" in text for text in notes())


def test_starved_queries_keep_fewer_and_the_watcher_is_told(plain: Path, tmp_path: Path, notes) -> None:
    out = run(plain, tmp_path / "out", method="absolute", threshold=-0.99)
    assert all(row.negatives == () for row in read_examples(out))
    assert read_manifest(out).headline["mining.short_queries"] == 20
    assert any("20 of 20 queries have fewer than 3 hard negatives (20 have none)" in text for text in notes())


def test_nothing_is_said_where_every_query_got_its_negatives(plain: Path, tmp_path: Path, notes) -> None:
    run(plain, tmp_path / "out", method="naive")
    assert notes() == []


def test_a_corpus_smaller_than_the_depth_gives_what_it_has(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "dataset", [example("Open", TEXTS[0])], TEXTS[:3])
    out = run(folder, tmp_path / "out", method="naive", depth=100)
    assert sorted(read_examples(out)[0].negatives) == sorted(TEXTS[1:3])
    assert read_manifest(out).counts["depth"] == 3


def test_a_positive_that_the_corpus_lacks_is_scored_but_never_chosen(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "dataset", [example("Open", "Not in the corpus"), example("Shut", TEXTS[0])], TEXTS[:3])
    out = run(folder, tmp_path / "out", method="naive", num_negatives=9)
    first, second = read_examples(out)
    assert sorted(first.negatives) == sorted(TEXTS[:3])
    assert "Not in the corpus" not in second.negatives
    assert scores_of(out)[0]["positive_score"] is not None


def test_rows_of_other_tasks_pass_through_unchanged(tmp_path: Path) -> None:
    others = [example("a", "b", "c", task_type="classification"), example("d", "e", task_type="clustering")]
    folder = dataset(tmp_path / "dataset", [others[0], example("Open", TEXTS[0]), others[1]], TEXTS)
    out = run(folder, tmp_path / "out", method="naive")
    first, mined, last = read_examples(out)
    assert [first, last] == others
    assert replace(mined, negatives=()) == example("Open", TEXTS[0])
    assert [row["positive_score"] is None for row in scores_of(out)] == [True, False, True]


def test_mining_switched_off_passes_the_folder_through(tmp_path: Path, state: Path) -> None:
    examples = [example("Open", TEXTS[0], "own")]
    folder = dataset(tmp_path / "dataset", examples, TEXTS)
    out = run(folder, tmp_path / "out", enabled=False)
    assert read_examples(out) == examples
    assert read_corpus(out) == read_corpus(folder)
    assert read_manifest(out, kind="mined", verify=True).section["enabled"] is False
    assert not state.exists()


def test_the_corpus_and_the_licences_come_along(plain: Path, tmp_path: Path) -> None:
    out = run(plain, tmp_path / "out")
    manifest = read_manifest(out, kind="mined", verify=True)
    assert read_corpus(out) == read_corpus(plain)
    assert manifest.licenses == {"test": "CC0-1.0"}
    assert manifest.inputs == {"dataset": read_manifest(plain).content}


def test_the_same_input_gives_the_same_bytes(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(plain, tmp_path / "first")
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "other-state"))
    second = run(plain, tmp_path / "second")
    assert digest_folder(first) == digest_folder(second)


def test_vectors_once_made_are_read_from_the_state(
    plain: Path, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(plain, tmp_path / "first", method="naive")
    assert len(list(state.rglob("*.npy"))) == 2  # queries, passages
    monkeypatch.setattr(Encoder, "encode", lambda *_: pytest.fail("embeds anew"))
    run(plain, tmp_path / "second", method="naive", depth=7)
    assert scores_of(tmp_path / "second") == scores_of(tmp_path / "first")


def test_another_rule_searches_nothing_anew(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(plain, tmp_path / "first", method="naive")
    monkeypatch.setattr("nvembed.mining.dense.top_k", lambda *_, **__: pytest.fail("searches anew"))
    run(plain, tmp_path / "second", method="absolute", threshold=2.0, num_negatives=2)
    assert [row["negatives"] for row in scores_of(tmp_path / "second")] == [
        row["negatives"][:2] for row in scores_of(tmp_path / "first")
    ]


def test_vectors_of_another_model_in_the_cache_are_refused(plain: Path, tmp_path: Path, state: Path, notes) -> None:
    first = run(plain, tmp_path / "first", method="naive")
    for file in state.rglob("*.npy"):
        vectors = np.load(file)
        np.save(file, np.roll(vectors, 1, axis=1))
    second = run(plain, tmp_path / "second", method="naive", depth=40)
    assert scores_of(second) == scores_of(first)
    assert sum("are refused and made anew" in text for text in notes()) == 2


def test_another_rule_needs_no_new_vectors(plain: Path, tmp_path: Path, state: Path) -> None:
    run(plain, tmp_path / "first", method="naive")
    run(plain, tmp_path / "second", method="margin", threshold=0.1, depth=5)
    assert len(list(state.rglob("*.npy"))) == 2


def test_the_report_counts_every_candidate_once(plain: Path, tmp_path: Path) -> None:
    out = run(plain, tmp_path / "out", depth=30, max_depth=30)
    counts = read_manifest(out).counts
    dropped = sum(count for name, count in counts.items() if name.startswith("dropped_"))
    assert counts["candidates"] == 20 * 30 == dropped + counts["left"]
    assert (out / "scores.png").read_bytes().startswith(b"\x89PNG")
    assert f"{counts['dropped_score']:,}" in (out / "report.md").read_text()
    assert "data:image/png;base64," in (out / "report.html").read_text()


def test_texts_in_the_report_cannot_become_markup(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "dataset", [example("<script>alert(1)</script>", TEXTS[0])], TEXTS)
    assert "<script>" not in (run(folder, tmp_path / "out", method="naive") / "report.html").read_text()


def test_a_dataset_without_a_corpus_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "dataset", [example("Open", TEXTS[0])], [])
    with pytest.raises(UserError, match="no corpus to mine"):
        run(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_positive_under_another_id_is_no_negative_and_twins_are_taken_once(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "dataset", [example("Open the socket, please", TEXTS[0])], TEXTS)
    rows = [*folder_rows(folder), {"id": "copy", "text": TEXTS[0]}, {"id": "twin", "text": f"  {TEXTS[1].upper()} "}]
    write_table(folder / "corpus" / "part-00000.parquet", rows, text_schema())
    (row,) = read_examples(run(folder, tmp_path / "out", method="naive", num_negatives=60, near_copies=None))
    forms = [normalise(text) for text in row.negatives]
    assert normalise(TEXTS[0]) not in forms
    assert len(forms) == len(set(forms)) == len({normalise(text) for text in TEXTS}) - 1


def test_a_query_with_no_candidate_left_is_kept_without_and_counted(tmp_path: Path, notes) -> None:
    folder = dataset(tmp_path / "dataset", [example("Open the socket", TEXTS[0])], TEXTS)
    out = run(folder, tmp_path / "out", method="absolute", threshold=-2.0)
    assert read_examples(out)[0].negatives == ()
    assert read_manifest(out).headline["mining.short_queries"] == 1
    assert any("(1 have none)" in text for text in notes())
    assert "1 have none" in (out / "report.md").read_text()


def test_vectors_that_are_no_numbers_are_refused_and_leave_nothing(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Encoder.encode
    monkeypatch.setattr(Encoder, "encode", lambda self, texts, report: encode(self, texts, report) * np.nan)
    with pytest.raises(UserError, match="vector 0 of the queries is not finite"):
        run(plain, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_index_in_place_of_the_exact_search_finds_the_same_in_a_small_corpus(plain: Path, tmp_path: Path) -> None:
    exact = run(plain, tmp_path / "exact", method="naive")
    about = run(plain, tmp_path / "about", method="naive", search={"index": "HNSW16", "effort": 200})
    assert scores_of(about) == scores_of(exact)
    with pytest.raises(UserError, match="IVF4096"):
        run(plain, tmp_path / "none", search={"index": "IVF4096,Flat"})


def test_a_folder_of_another_kind_is_refused(plain: Path, tmp_path: Path) -> None:
    out = run(plain, tmp_path / "out")
    with pytest.raises(UserError, match="holds a mined, but a dataset is needed"):
        run(out, tmp_path / "again")


def test_a_teacher_that_is_not_there_is_refused_and_leaves_nothing(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no-such"):
        run(plain, tmp_path / "out", teacher={"backbone": "package:no_such_teacher"})
    assert list(tmp_path.glob("*out*")) == []


def test_in_a_mix_negatives_come_of_the_querys_own_source_or_of_its_pool(tmp_path: Path) -> None:
    pool_of = {"one": "one", "two": "shared", "three": "shared"}
    texts = {source: TEXTS[start::3] for start, source in enumerate(pool_of)}
    examples = [
        replace(example(f"How to {text.lower()}?", text), source=source) for source in pool_of for text in texts[source]
    ]
    folder = tmp_path / "dataset"
    folder.mkdir()
    write_examples(folder, examples)
    rows = [
        {"id": document_id(text), "text": text, "pool": pool_of[source]} for source in pool_of for text in texts[source]
    ]
    (folder / "corpus").mkdir()
    write_table(folder / "corpus" / "part-00000.parquet", rows, corpus_schema())
    sources = {"one": {}, "two": {"pool": "shared"}, "three": {"pool": "shared"}}
    write_manifest(folder, kind="dataset", section={"source": "mix", "sources": sources})

    mined = read_examples(run(folder, tmp_path / "out", method="naive", depth=20))

    assert [one.query for one in mined] == [one.query for one in examples]
    found = {source: {t for one in mined if one.source == source for t in one.negatives} for source in pool_of}
    assert found["one"] and found["one"] <= set(texts["one"])
    assert found["two"] <= {*texts["two"], *texts["three"]} and found["two"] & set(texts["three"])
