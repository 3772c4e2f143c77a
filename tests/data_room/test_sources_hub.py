"""Datasets of the hub, through its real clients and a small server in its place."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_hub import COMMIT, FakeHub

from nvembed.core.errors import UserError
from nvembed.data.adapters.hub import patiently

PAIRS = [{"query": f"question {i}", "answer": f"answer {i}"} for i in range(300)]
CARD = (
    b"---\nlicense: mit\nconfigs:\n- config_name: pair\n  data_files:\n  - split: train\n    path: pair/train-*\n"
    b"  - split: test\n    path: pair/test-*\n---\n"
)

TWO = b"---\nconfigs:\n- config_name: a\n  data_files: a/train-*\n- config_name: b\n  data_files: b/train-*\n---\n"


def parquet(rows: list[dict[str, Any]]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


SOURCES = (
    f"""
good: {{repo: o/good, config: pair, license: mit, revision: {COMMIT}}}
"""
    + """
plain: {repo: o/plain, rows: 1000}
short-revision: {repo: o/plain, revision: '012345', files: '*.jsonl'}
script: {repo: o/scripted, fallback: [{repo: o/plain}]}
gated: {repo: o/gated, config: pair}
missing: {repo: o/missing}
no-revision: {repo: o/plain, revision: nope}
no-short-revision: {repo: o/plain, revision: beef42}
no-config: {repo: o/good, config: nope}
unnamed-config: {repo: o/two}
no-split: {repo: o/good, config: pair, split: nope}
no-file: {repo: o/plain, files: '*.parquet'}
other-licence: {repo: o/good, config: pair, split: test, license: apache-2.0, revision: main}
"""
)


def recipe(folder: Path, sources: str, **more: Any) -> Path:
    """A recipe whose data is a mix of one source a line, all of them with columns query and answer."""
    listed = [
        line.replace("{", "{columns: {query: query, positive: answer}, ", 1) for line in sources.split("\n") if line
    ]
    text = [
        "name: x",
        "model: {backbone: 'random:mistral-tiny'}",
        "mining: {teacher: {backbone: 'random:mistral-tiny'}}",
        "stage1: {steps: 1}",
        "stage2: {steps: 1}",
        "data:",
        "  source: mix",
        *(f"  {key}: {value}" for key, value in more.items()),
        "  sources:",
        *(f"    {line}" for line in listed),
    ]
    path = folder / "mix.yaml"
    path.write_text("\n".join(text) + "\n")
    return path


def hub_environment(endpoint: str, folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def check(path: Path, endpoint: str, *options: str) -> tuple[dict[str, dict[str, Any]], str, int]:
    """What `nvembed data check --json` says of each source, its last line on standard error and its exit code."""
    environment = hub_environment(endpoint, path.parent)
    command = [sys.executable, "-m", "nvembed.cli", "data", "check", str(path), "--json", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    rows = {row["name"]: row for row in json.loads(done.stdout)} if done.stdout else {}
    return rows, done.stderr, done.returncode


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    datasets = {
        "o/good": {
            "README.md": CARD,
            "pair/train-0.parquet": parquet(PAIRS),
            "pair/test-0.parquet": parquet(PAIRS[:3]),
        },
        "o/plain": {"train.jsonl": jsonl(PAIRS)},
        "o/two": {"README.md": TWO, "a/train-0.parquet": parquet(PAIRS), "b/train-0.parquet": parquet(PAIRS)},
        "o/scripted": {"scripted.py": b"raise SystemExit('a script was run')", "train.jsonl": jsonl(PAIRS)},
        "o/gated": {"README.md": CARD, "pair/train-0.parquet": parquet(PAIRS)},
    }
    with FakeHub(datasets, gated={"o/gated"}) as running:
        running.breaks["train.jsonl"] = 1
        yield running


@pytest.fixture(scope="module")
def checked(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, Any]], str, int]:
    return check(recipe(tmp_path_factory.mktemp("mix"), SOURCES), hub.endpoint, "--read")


def test_a_dataset_is_read_from_its_split_and_pinned_to_its_commit(checked: tuple[dict[str, Any], str, int]) -> None:
    good = checked[0]["good"]
    assert (good["state"], good["rows"], good["examples"]) == ("ok", 300, 300)
    assert good["revision"] == COMMIT and good["place"] == f"o/good@{COMMIT[:12]} pair/train"
    assert (good["example"]["query"], good["example"]["positive"]) == ("question 0", "answer 0")


def test_a_reading_that_breaks_off_is_tried_again(checked: tuple[dict[str, Any], str, int], hub: FakeHub) -> None:
    assert checked[0]["plain"]["rows"] == 300 and hub.breaks["train.jsonl"] == 0


def test_a_download_that_breaks_off_goes_on_where_it_ended(tmp_path: Path) -> None:
    large = os.urandom(1 << 20) * 24  # the client keeps what came in pieces of 10 MB
    with FakeHub({"o/large": {"large.jsonl": large}}) as hub:
        hub.breaks["large.jsonl"] = 1
        code = "import sys; from nvembed.data.adapters.hub import download; print(download(sys.argv[1], attempts=1))"
        command = [sys.executable, "-c", code, f"hf://datasets/o/large@{COMMIT}/large.jsonl"]
        environment = hub_environment(hub.endpoint, tmp_path)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
        assert Path(done.stdout.strip()).read_bytes() == large
        assert (hub.breaks["large.jsonl"], hub.resumed["large.jsonl"]) == (0, 1)


def test_a_dataset_that_is_not_pinned_or_not_as_large_as_the_recipe_has_it_is_said(
    checked: tuple[dict[str, Any], str, int],
) -> None:
    assert checked[0]["plain"]["found"] == [
        f"not pinned; its newest commit is {COMMIT}",
        "300 rows, where the recipe expects 1,000",
    ]


def test_the_first_digits_of_a_commit_name_it(checked: tuple[dict[str, Any], str, int]) -> None:
    assert checked[0]["short-revision"]["revision"] == COMMIT


def test_a_licence_is_held_against_the_card(checked: tuple[dict[str, Any], str, int]) -> None:
    assert checked[0]["good"]["found"] == []
    assert checked[0]["other-licence"]["found"] == ["the card's licence is mit, the recipe's apache-2.0"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("script", "needs its script scripted.py, and none is run here"),
        ("script", "with data.allow_fallback=true o/plain would be read in its place"),
        ("gated", "o/gated@main: is gated: ask for access at https://huggingface.co/datasets/o/gated"),
        ("missing", "o/missing@main: there is no such dataset on the hub"),
        ("no-revision", "o/plain@nope: has no such revision"),
        ("no-short-revision", "o/plain@beef42: no commits begin with beef42"),
        ("no-config", "has no such configuration (BuilderConfig 'nope' not found. Available: ['pair'])"),
        ("unnamed-config", "has no such configuration (Config name is missing."),
        ("no-split", "no split 'nope'; there are test, train"),
        ("no-file", "no file fits '*.parquet'; there are train.jsonl"),
    ],
)
def test_what_is_wrong_with_a_dataset_is_one_line(
    name: str, says: str, checked: tuple[dict[str, Any], str, int]
) -> None:
    (said,) = checked[0][name]["found"]
    assert checked[0][name]["state"] == "failed"
    assert said.startswith(f"source {name}: ") and says in said and "\n" not in said


def test_the_check_ends_with_the_users_exit_code_and_the_names_of_what_failed(
    checked: tuple[dict[str, Any], str, int],
) -> None:
    assert checked[2] == 2
    failed = "gated, missing, no-config, no-file, no-revision, no-short-revision, no-split, script, unnamed-config"
    assert checked[1].strip().endswith(f"9 of 13 sources cannot be had: {failed}")


def test_an_allowed_fallback_is_read_and_said(hub: FakeHub, tmp_path: Path) -> None:
    script = next(line for line in SOURCES.split("\n") if line.startswith("script"))
    path = recipe(tmp_path, script, allow_fallback="true")
    place = "[{repo: o/plain, columns: {query: query, positive: answer}}]"
    rows, _, code = check(path, hub.endpoint, "--read", "--set", f"data.sources.script.fallback={place}")
    assert code == 0 and rows["script"]["rows"] == 300
    assert rows["script"]["found"][0].startswith("source script: reads its fallback o/plain, since source script: ")


def test_a_hub_that_is_not_there_is_said_with_what_to_do(tmp_path: Path) -> None:
    rows, _, code = check(recipe(tmp_path, "plain: {repo: o/plain}"), "http://127.0.0.1:9")
    (said,) = rows["plain"]["found"]
    assert code == 2 and said.startswith("source plain: o/plain@main: cannot be had from the hub, tried 1 times")
    assert "give data.hub_mirror" in said


def test_what_may_pass_is_tried_again_each_time_after_twice_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    results = iter([ConnectionError("reset"), TimeoutError(), "there"])

    def act() -> str:
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return result

    assert patiently(act, "o/set@main", 3) == "there"
    assert waits == [2.0, 4.0]


def test_the_last_try_says_which_dataset_it_was_and_that_what_came_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)

    def act() -> None:
        raise ConnectionError("reset by peer")

    with pytest.raises(UserError, match=r"o/set@main: cannot be had from the hub, tried 3 times .*reset by peer"):
        patiently(act, "o/set@main", 3)
