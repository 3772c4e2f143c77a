"""Streaming: a folder of parts, bounded in memory, that a kill costs one part and a changed text its own part only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from modeling_helpers import INSTRUCTION, furthest

from nvembed import NVEmbedModel
from nvembed.core.artifacts import read_manifest
from nvembed.core.errors import UserError
from nvembed.core.state import hold
from nvembed.encoding import encode_stream, read_vectors
from nvembed.modeling.vectors import to_int8, truncate

MANY = [f"text {number} " * (number % 7 + 1) for number in range(50)]
FORMATS = pytest.mark.parametrize("form", ["parquet", "npy"])


@pytest.fixture
def tokenized(model: NVEmbedModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each call of the text rule was given."""
    calls: list[int] = []
    tokenize = model.rule.tokenize
    monkeypatch.setattr(model.rule, "tokenize", lambda texts, *rest: calls.append(len(texts)) or tokenize(texts, *rest))
    return calls


def inodes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in sorted(folder.glob("part-*")) if path.suffix != ".json"}


@FORMATS
def test_a_generator_becomes_parts_that_hold_what_encode_gives(model, tmp_path, form) -> None:
    done = encode_stream(model, (text for text in MANY), tmp_path / "out", shard_size=20, format=form)
    assert (done.rows, done.shards, done.made) == (50, 3, 3)
    assert list(inodes(done.folder)) == [f"part-0000{number}.{form}" for number in range(3)]
    found = read_vectors(done.folder)
    assert (found.shape, found.dtype) == ((50, 32), np.float32)
    assert furthest(np.asarray(found), model.encode(MANY)) < 1e-6


def test_texts_are_taken_a_part_at_a_time_when_the_last_one_is_written(model, tmp_path) -> None:
    finished: list[int] = []

    def texts() -> Iterator[str]:
        for text in MANY:
            finished.append(len(list((tmp_path / "out").glob("part-*.json"))))
            yield text

    encode_stream(model, texts(), tmp_path / "out", shard_size=10)
    assert finished == [number // 10 for number in range(50)]


def test_options_reach_the_vectors_and_stand_in_the_manifest(model, tmp_path) -> None:
    options = {"instruction": INSTRUCTION, "max_length": 90, "dimensions": 12, "precision": "int8"}
    encode_stream(model, MANY, tmp_path / "out", shard_size=30, format="npy", **options)
    plain = model.encode(MANY, INSTRUCTION, 90)
    found = read_vectors(tmp_path / "out")
    assert np.abs(np.asarray(found).astype(int) - to_int8(truncate(plain, 12)).astype(int)).max() <= 1
    manifest = read_manifest(tmp_path / "out", kind="vectors", verify=True)
    made_with = {"prefix": model.rule.prefix(INSTRUCTION), "max_length": 90, "dimensions": 12, "stored_as": "int8"}
    assert made_with.items() <= manifest.section.items()
    assert manifest.section == found.settings
    assert manifest.inputs["model"] == model.fingerprint()
    assert manifest.counts == {"rows": 50, "shards": 2}


def test_parquet_keeps_ids_and_texts_where_asked(model, tmp_path) -> None:
    pairs = [(f"id{number}", text) for number, text in enumerate(MANY)]
    encode_stream(model, pairs, tmp_path / "both", shard_size=30)
    tables = [pq.read_table(file) for file in sorted((tmp_path / "both").glob("*.parquet"))]
    assert tables[0].column_names == ["id", "text", "vector"]
    assert [cell for table in tables for cell in table.column("text").to_pylist()] == MANY
    assert tables[1].column("id").to_pylist()[0] == "id30"
    encode_stream(model, MANY, tmp_path / "bare", keep_texts=False)
    assert pq.read_schema(tmp_path / "bare" / "part-00000.parquet").names == ["vector"]


def test_equal_texts_of_a_shard_are_encoded_once(model, tmp_path, encoded) -> None:
    encode_stream(model, ["one", "two"] * 30, tmp_path / "out", shard_size=60)
    assert encoded() == 2
    found = np.asarray(read_vectors(tmp_path / "out"))
    assert furthest(found[:2], model.encode(["one", "two"])) < 1e-6
    assert np.array_equal(found, np.tile(found[:2], (30, 1)))


def test_a_finished_folder_is_left_as_it_is_and_nothing_is_tokenized(model, tmp_path, tokenized) -> None:
    encode_stream(model, MANY, tmp_path / "out", shard_size=20)
    before, created = inodes(tmp_path / "out"), read_manifest(tmp_path / "out").created
    tokenized.clear()
    again = encode_stream(model, iter(MANY), tmp_path / "out", shard_size=20)
    assert (again.rows, again.shards, again.made) == (50, 3, 0)
    assert inodes(tmp_path / "out") == before
    assert read_manifest(tmp_path / "out", verify=True).created == created
    assert sum(tokenized) == 0


@FORMATS
def test_only_parts_whose_texts_changed_are_made_again(model, tmp_path, encoded, form) -> None:
    out = tmp_path / "out"
    encode_stream(model, MANY, out, shard_size=10, format=form)
    before = inodes(out)
    encoded()
    changed = [*MANY[:34], "another text", *MANY[35:], "one text more"]
    assert encode_stream(model, changed, out, shard_size=10, format=form).made == 2
    assert encoded() == 11
    after = inodes(out)
    assert {name for name, inode in before.items() if after[name] != inode} == {f"part-00003.{form}"}
    assert furthest(np.asarray(read_vectors(out)), model.encode(changed)) < 1e-6


def test_a_shorter_input_leaves_no_part_of_the_longer_one(model, tmp_path) -> None:
    encode_stream(model, MANY, tmp_path / "out", shard_size=10)
    assert encode_stream(model, MANY[:20], tmp_path / "out", shard_size=10).made == 0
    assert len(read_vectors(tmp_path / "out")) == 20
    assert len(inodes(tmp_path / "out")) == 2
    read_manifest(tmp_path / "out", verify=True)


def test_a_part_cut_short_or_without_its_record_is_made_again(model, tmp_path) -> None:
    out = tmp_path / "out"
    encode_stream(model, MANY, out, shard_size=10, format="npy")
    os.truncate(out / "part-00001.npy", 100)
    (out / "part-00003.json").unlink()
    assert encode_stream(model, MANY, out, shard_size=10, format="npy").made == 2
    assert furthest(np.asarray(read_vectors(out)), model.encode(MANY)) < 1e-6


def test_a_disk_that_fills_up_between_a_part_and_its_record_leaves_no_record_of_other_texts(
    model, tmp_path, monkeypatch
) -> None:
    out = tmp_path / "out"
    encode_stream(model, MANY, out, shard_size=50, format="npy")
    calls, fsync = [], os.fsync

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"part-00000\.npy: cannot be written \(No space left on device\)"):
        encode_stream(model, MANY[::-1], out, shard_size=50, format="npy")
    monkeypatch.undo()
    assert encode_stream(model, MANY, out, shard_size=50, format="npy").made == 1
    assert furthest(np.asarray(read_vectors(out)), model.encode(MANY)) < 1e-6


@FORMATS
def test_no_texts_are_a_finished_folder_without_rows(model, tmp_path, form) -> None:
    assert encode_stream(model, iter([]), tmp_path / "out", format=form, precision="binary").rows == 0
    found = read_vectors(tmp_path / "out")
    assert (found.shape, np.asarray(found).dtype) == ((0, 4), np.uint8)


@FORMATS
def test_rows_are_read_by_number_slice_list_and_mask_like_those_of_an_array(model, tmp_path, form) -> None:
    encode_stream(model, MANY, tmp_path / "out", shard_size=20, format=form)
    found = read_vectors(tmp_path / "out")
    whole = np.concatenate([array for _, array in found.parts()])
    mask = np.arange(50) % 3 == 0
    for index in (0, -1, 25, slice(15, 45, 4), slice(None, None, -7), [49, 3, 21, 3], np.array([-50, 19, 20]), mask):
        assert np.array_equal(found[index], whole[index])
    assert [start for start, _ in found.parts()] == [0, 20, 40]
    assert sum(1 for _ in found) == 50
    for index in (50, -51, [0, 50]):
        with pytest.raises(IndexError):
            found[index]


def test_npy_parts_are_mapped_and_not_read(model, tmp_path) -> None:
    encode_stream(model, MANY, tmp_path / "out", format="npy")
    ((_, array),) = read_vectors(tmp_path / "out").parts()
    assert isinstance(array, np.memmap)


def test_the_folder_is_held_while_it_is_written(model, tmp_path) -> None:
    out = tmp_path / "out"

    def texts() -> Iterator[str]:
        for number, text in enumerate(MANY):
            if number == 30:
                with pytest.raises(TimeoutError), hold(out, timeout=0):
                    pass
            yield text

    assert encode_stream(model, texts(), out, shard_size=10).made == 5
    with hold(out, timeout=0):
        pass


KILLED = """
    import sys, time
    from pathlib import Path
    from nvembed import NVEmbedModel
    from nvembed.encoding import encode_stream
    from tests_stream_texts import texts

    model = NVEmbedModel.from_pretrained(sys.argv[1])
    print(encode_stream(model, texts(), sys.argv[2], shard_size=200, format="npy", max_length=64).made, flush=True)
"""


def test_a_killed_process_started_again_makes_only_what_is_missing(model, tmp_path) -> None:
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "tests_stream_texts.py").write_text(
        "def texts():\n    return (f'text number {n} ' * (n % 5 + 1) for n in range(4000))\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "model"), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    first = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 120
    while len(list(out.glob("part-*.json"))) < 3 and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    finished = {path.stem for path in out.glob("part-*.json")}
    before = {path.name: path.stat().st_ino for path in out.glob("part-*.npy") if path.stem in finished}
    assert 3 <= len(before) < 20
    assert not (out / "manifest.json").exists()

    second = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(second.stdout) == 20 - len(before)
    assert before.items() <= inodes(out).items()
    assert list(out.glob(".*.partial")) == []
    expected = [f"text number {n} " * (n % 5 + 1) for n in range(4000)]
    found = read_vectors(out)
    sample = np.random.default_rng(1).choice(4000, 60, replace=False)
    assert furthest(found[sample], model.encode([expected[row] for row in sample], max_length=64)) < 1e-5
    assert json.loads((out / "manifest.json").read_text())["counts"] == {"rows": 4000, "shards": 20}
