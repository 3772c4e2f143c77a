"""What happens while tasks run: results are kept as they come, failures written down, shards put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mteb.get_tasks import _TASKS_REGISTRY
from mteb.mocks import ALL_MOCK_TASK_TEST_GRID

from nvembed.core.artifacts import read_manifest
from nvembed.core.errors import UserError
from nvembed.evaluation import scoring, vectors
from nvembed.evaluation.measuring import Reader
from nvembed.evaluation.results import read_results
from nvembed.evaluation.running import evaluate_with
from nvembed.evaluation.shards import whole_folders
from nvembed.evaluation.statistic import statistic_of
from nvembed.evaluation.stats import observed
from nvembed.evaluation.wrapper import MTEBEncoder
from nvembed.recipe import Evaluation

Encode = Callable[..., np.ndarray]
MOCKS = {task.metadata.name: type(task) for task in ALL_MOCK_TASK_TEST_GRID}
NAMES = ["MockRetrievalTask", "MockMultilingualSTSTask", "MockClassificationTask"]
PIECES = 5
"""A local set and three tasks of mteb's, of which the first has two splits."""


@pytest.fixture(autouse=True)
def mocks_as_tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """mteb's mock tasks, which bring their data along, under their names; and a state of the test's own."""
    for name in NAMES:
        monkeypatch.setitem(_TASKS_REGISTRY, name, MOCKS[name])
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))


@pytest.fixture
def measure(encode_words: Encode, retrieval_alone: Path, tmp_path: Path) -> Callable[..., Path]:
    """Measures the bag of words on a local set and the mocks."""

    def run(name: str = "out", share: tuple[int, int] = (1, 1), **changes: Any) -> Path:
        section = Evaluation(splits=["test"], tasks=NAMES, **changes)

        def read() -> tuple[Any, dict[str, Any]]:
            made_by = {"model": "words"}
            most = section.vector_cache_gb * 1e9
            return MTEBEncoder(encode_words, name="words", made_by=made_by, most_bytes=most), made_by

        out = tmp_path / name
        evaluate_with(
            [Reader("trained", read)], "stage2", section, retrieval_alone, out, inputs={"adapter": "a"}, share=share
        )
        return out

    return run


class Watched:
    """`score_task` as it is, but for what it is told to do at a call; counts the calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.at: Callable[[int, str], None] = lambda number, name: None
        inner = scoring.score_task

        def score_task(task: Any, model: Any, **given: Any) -> Any:
            self.at(len(self.calls), task.metadata.name)
            scored = inner(task, model, **given)
            self.calls.append(task.metadata.name)
            return scored

        monkeypatch.setattr(scoring, "score_task", score_task)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    yield Watched(monkeypatch)


def test_interrupted_at_any_task_nothing_finished_is_done_again_and_the_files_are_the_same(
    measure: Callable[..., Path], watched: Watched, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = measure("whole")
    assert len(watched.calls) == PIECES
    bytes_of = {name: (whole / name).read_bytes() for name in ("results.json", "items.parquet")}
    for stop in range(PIECES):
        monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / f"state{stop}"))
        watched.calls.clear()

        def interrupt(number: int, name: str, stop: int = stop) -> None:
            if number == stop:
                raise KeyboardInterrupt

        watched.at = interrupt
        with pytest.raises(KeyboardInterrupt):
            measure(f"stopped{stop}")
        assert not (tmp_path / f"stopped{stop}").exists() and len(watched.calls) == stop
        watched.at = lambda number, name: None
        again = measure(f"stopped{stop}")
        assert len(watched.calls) == PIECES, "what was finished was not done again"
        assert {name: (again / name).read_bytes() for name in bytes_of} == bytes_of


def test_a_task_that_fails_is_written_down_and_a_retry_does_it_alone(
    measure: Callable[..., Path], watched: Watched
) -> None:
    def fail(number: int, name: str) -> None:
        if name == "MockMultilingualSTSTask":
            raise ConnectionError("the hub cannot be reached")

    watched.at = fail
    failed = read_results(measure("failed"))
    key = ("test", "MockMultilingualSTSTask")
    assert failed.errors == {key: "ConnectionError: the hub cannot be reached"}
    assert key not in failed.tasks and len(failed.tasks) == 3
    assert read_manifest(failed.folder).headline["eval.stage2.failed_tasks"] == 1
    watched.at = lambda number, name: None
    watched.calls.clear()
    mended = read_results(measure("mended"))
    assert watched.calls == ["MockMultilingualSTSTask"] and not mended.errors and len(mended.tasks) == 4


def test_shares_put_together_are_what_one_task_would_have_written(measure: Callable[..., Path], tmp_path: Path) -> None:
    whole = measure("whole")
    shares = [measure(f"share{number}", (number, 3), shards=3) for number in (3, 1, 2)]
    assert sum(len(read_results(folder).tasks) for folder in shares) == 4
    (joined,) = whole_folders(shares)
    for name in ("results.json", "items.parquet"):
        assert (joined / name).read_bytes() == (whole / name).read_bytes()
    assert whole_folders([whole]) == [whole]
    with pytest.raises(UserError, match="share 2 of 3 is missing"):
        whole_folders(shares[:2])


def test_a_kept_result_that_was_changed_is_measured_anew(measure: Callable[..., Path], watched: Watched) -> None:
    first, count = measure("first"), len(watched.calls)
    changed = sorted((Path(first).parent / "state" / "evaluation").rglob("scores.json"))[0]
    changed.write_text(changed.read_text(encoding="utf-8") + " ", encoding="utf-8")
    again = measure("again")
    assert len(watched.calls) == count + 1
    assert (again / "results.json").read_bytes() == (first / "results.json").read_bytes()


def test_a_task_of_several_parts_scores_their_mean_and_its_items_say_the_same(measure: Callable[..., Path]) -> None:
    results = read_results(measure())
    row = results.tasks["test", "MockRetrievalTask"]
    assert row["hf_split"] == "val+test" and set(row["subsets"]) == {"val", "test"}
    assert row["score"] == pytest.approx(np.mean(list(row["subsets"].values())))
    items = results.items["test", "MockRetrievalTask"]
    assert observed(statistic_of(row["type"], items, row["metric"])) == pytest.approx(row["score"], abs=1e-4)
    assert row["group"] == "mteb" and row["in_domain"] is False


def test_a_task_of_the_training_split_is_marked_with_the_source(measure: Callable[..., Path]) -> None:
    seen = {"stage2": {"mock-retrieval-task": {"task_type": "retrieval"}, "other": {"task_type": "sts"}}}
    tasks = read_results(measure(trained_on=seen)).tasks
    assert tasks["test", "MockRetrievalTask"]["in_domain_by"] == ["mock-retrieval-task"]
    assert [key[1] for key, row in tasks.items() if row["in_domain"]] == ["MockRetrievalTask"]


def test_a_corpus_that_tasks_share_is_encoded_once_and_no_bit_depends_on_it(
    encode_words: Encode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vectors, "LONG", 20)
    corpus, asked = [f"document {row}" for row in range(40)], []

    def encode(texts: list[str], instruction: str) -> np.ndarray:
        asked.append(len(texts))
        return encode_words(texts, instruction)

    plain = encode_words(corpus)
    for process in range(2):  # another process, a retry say, finds them too
        ours = vectors.Vectors(encode, made_by={"model": "words"}, most_bytes=1e6)
        for _ in range(2):
            ours.begin_task()
            assert np.array_equal(ours.of(corpus, ""), plain)
        assert ours.texts_encoded == (40 if process == 0 else 0)
    assert np.array_equal(ours.of(corpus, "told"), encode_words(corpus, "told")), "another instruction is another text"
    other = vectors.Vectors(encode, made_by={"model": "other"}, most_bytes=1e6)
    other.of(corpus, "")
    assert asked == [40, 40, 40]


def test_vectors_in_the_state_stay_below_the_bound_and_the_oldest_go(
    encode_words: Encode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vectors, "LONG", 20)
    corpora = [[f"{name} {row}" for row in range(100)] for name in "abc"]
    one = encode_words(corpora[0]).nbytes
    ours = vectors.Vectors(encode_words, made_by={"model": "words"}, most_bytes=2.5 * one)
    for corpus in corpora:
        ours.begin_task()
        ours.of(corpus, "")
    held = list((tmp_path / "state" / vectors.KIND).glob("*/vectors.npy"))
    assert len(held) == 2 and sum(file.stat().st_size for file in held) <= 2.5 * one
    ours.begin_task()
    ours.of(corpora[2], "")
    assert ours.texts_encoded == 300, "the newest is still there"
    ours.begin_task()
    ours.of(corpora[0], "")
    assert ours.texts_encoded == 400, "the oldest had to go"


def test_short_lists_do_not_pile_up_in_memory(encode_words: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"text {row}" for row in range(300)]
    one = encode_words(texts[:1]).nbytes
    monkeypatch.setattr(vectors, "IN_MEMORY", 40 * one)
    ours = vectors.Vectors(encode_words)
    for start in range(0, 290, 10):
        assert np.array_equal(ours.of(texts[start : start + 20], ""), encode_words(texts[start : start + 20]))
        assert len(ours._task) <= 40 and sum(found.nbytes for found in ours._lists.values()) <= 40 * one
