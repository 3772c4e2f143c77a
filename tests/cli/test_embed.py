"""`nvembed embed`: every text of a file, in its order, as `NVEmbedModel.encode` would have it."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nvembed.cli import main
from nvembed.cli.commands_embed import find_devices
from nvembed.cli.text_files import read_texts
from nvembed.core.errors import UserError
from nvembed.encoding import read_vectors

TEXTS = ["one text", "another text, somewhat longer", "a third\u2028with a line separator"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny random model in a folder, and the model itself."""
    from nvembed import NVEmbedModel
    from nvembed.recipe import load_recipe

    made = NVEmbedModel.from_section(load_recipe("tiny").model)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    made.save_pretrained(folder)
    return folder, made


@pytest.fixture(params=["txt", "jsonl", "parquet"])
def source(request, tmp_path):
    file = tmp_path / f"in.{request.param}"
    if request.param == "txt":
        file.write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    elif request.param == "jsonl":
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    else:
        pq.write_table(pa.table({"text": TEXTS}), file)
    return file


def test_every_kind_of_file_gives_its_texts_in_order(source):
    assert list(read_texts(source, "text")) == TEXTS


def test_a_file_is_read_as_far_as_it_is_asked_for(tmp_path):
    (tmp_path / "in.txt").write_text("one\ntwo\n" + "three\n" * 100_000 + "\n", encoding="utf-8")
    texts = read_texts(tmp_path / "in.txt", "text")
    assert list(islice(texts, 2)) == ["one", "two"]
    with (tmp_path / "in.txt").open("a") as stream:
        stream.write("appended while it was read\n")
    assert list(texts)[-2:] == ["", "appended while it was read"]


def test_lines_lose_their_ends_and_a_byte_order_mark_and_nothing_else(tmp_path):
    (tmp_path / "in.txt").write_bytes(b"\xef\xbb\xbfone\r\n two \n\nlast")
    assert list(read_texts(tmp_path / "in.txt", "text")) == ["one", " two ", "", "last"]


def test_ids_are_read_beside_the_texts(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "a", "n": 7}\n\n{"n": "x", "text": "b"}\n')
    assert list(read_texts(tmp_path / "in.jsonl", "text", "n")) == [("7", "a"), ("x", "b")]


def test_vectors_equal_those_of_encode_with_the_instruction(model, source, tmp_path):
    folder, made = model
    assert main(["embed", str(folder), str(source), str(tmp_path / "out.npy"), "--instruction", "Find it"]) == 0
    wanted = made.encode(TEXTS, instruction="Find it")
    assert np.abs(np.load(tmp_path / "out.npy") - wanted).max() < 1e-5
    assert np.abs(wanted - made.encode(TEXTS)).max() > 1e-3


def test_parquet_keeps_the_texts_beside_their_vectors(model, source, tmp_path):
    folder, made = model
    assert main(["embed", str(folder), str(source), str(tmp_path / "out.parquet")]) == 0
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column("text").to_pylist() == TEXTS
    assert np.abs(np.array(table.column("vector").to_pylist()) - made.encode(TEXTS)).max() < 1e-5


def test_a_folder_gets_the_same_in_parts_and_says_what_was_there_already(model, source, tmp_path, capsys):
    folder, made = model
    command = ["embed", str(folder), str(source), str(tmp_path / "out"), "--shard-size", "2", "--batch-tokens", "64"]
    assert main(command) == 0
    assert np.abs(np.asarray(read_vectors(tmp_path / "out")) - made.encode(TEXTS)).max() < 1e-5
    tables = [pq.read_table(file).column("text").to_pylist() for file in sorted((tmp_path / "out").glob("*.parquet"))]
    assert tables == [TEXTS[:2], TEXTS[2:]]
    assert capsys.readouterr().out == f"3 texts, 32 dimensions, 2 parts: {tmp_path / 'out'}\n"
    assert main(command) == 0
    assert "2 parts, 2 of them there already" in capsys.readouterr().out


@pytest.mark.parametrize("out", ["out", "out.npy"])
def test_dimensions_and_stored_precision_are_those_of_encode(model, source, tmp_path, out):
    folder, made = model
    smaller = ["--dimensions", "20", "--precision", "binary", *(["--format", "npy"] if out == "out" else [])]
    assert main(["embed", str(folder), str(source), str(tmp_path / out), *smaller]) == 0
    found = np.load(tmp_path / out) if out == "out.npy" else np.asarray(read_vectors(tmp_path / out))
    assert np.array_equal(found, made.encode(TEXTS, dimensions=20, precision="binary"))


@pytest.mark.parametrize("out", ["out", "out.parquet"])
def test_ids_stand_beside_the_vectors_and_texts_may_be_left_out(model, tmp_path, out):
    rows = pa.table({"doc": ["a", "b", "c"], "body": TEXTS})
    pq.write_table(rows, tmp_path / "in.parquet")
    options = ["--column", "body", "--id-column", "doc", "--no-texts"]
    assert main(["embed", str(model[0]), str(tmp_path / "in.parquet"), str(tmp_path / out), *options]) == 0
    table = pq.read_table(tmp_path / out if out == "out.parquet" else tmp_path / out / "part-00000.parquet")
    assert table.column_names == ["id", "vector"]
    assert table.column("id").to_pylist() == ["a", "b", "c"]


@pytest.mark.slow
@pytest.mark.parametrize("out", ["out", "out.npy"])
def test_a_list_of_devices_is_a_process_each(model, tmp_path, out):
    folder, made = model
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "in.parquet")
    assert main(["embed", str(folder), str(tmp_path / "in.parquet"), str(tmp_path / out), "--device", "cpu,cpu"]) == 0
    found = np.load(tmp_path / out) if out == "out.npy" else np.asarray(read_vectors(tmp_path / out))
    assert np.abs(found - made.encode(TEXTS)).max() < 1e-5


def test_devices_are_torchs_names_and_auto_takes_what_is_there(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_devices("auto") == ["cuda:0", "cuda:1", "cuda:2"]
    assert find_devices("cuda:2, cpu") == ["cuda:2", "cpu"]
    for wrong in ("cuda:3", "gpu", ""):
        with pytest.raises(UserError, match="device"):
            find_devices(wrong)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_devices("auto") == ["cpu"]
    with pytest.raises(UserError, match="no usable GPU"):
        find_devices("cuda:0")


@pytest.mark.parametrize("out", ["out", "out.npy"])
@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("in.csv", b"text\n", ".jsonl"),
        ("in.txt", b"", "is empty"),
        ("in.txt", b"fine\n\xff\xfe\n", "line 2: is not UTF-8"),
        ("in.jsonl", b'{"text": "a"}\n{oops\n', "line 2: not JSON"),
        ("in.jsonl", b'{"text": "a"}\n\n{"other": "b"}\n', "line 3: no text in 'text'"),
        ("in.jsonl", b'{"text": "a"}\n{"text": null}\n', "line 2: no text"),
        ("in.jsonl", b'{"text": "a"}\n["text"]\n', "line 2: no text"),
        ("in.jsonl", b'{"text": "\\ud800"}\n', "line 1: is not valid Unicode"),
        ("in.parquet", b"this is no parquet", "not a Parquet file"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line_before_the_model_is_read(
    tmp_path, capsys, name, content, part, out
):
    (tmp_path / name).write_bytes(content)
    assert main(["embed", "no-such-model", str(tmp_path / name), str(tmp_path / out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert part in line
    assert not (tmp_path / out).exists()


def test_a_parquet_row_without_a_text_is_named_and_so_are_the_columns_there(tmp_path):
    pq.write_table(pa.table({"text": ["a", "b", None], "other": [1, 2, 3]}), tmp_path / "in.parquet")
    with pytest.raises(UserError, match="row 3: no text in 'text'"):
        list(read_texts(tmp_path / "in.parquet", "text"))
    with pytest.raises(UserError, match="there are text, other"):
        list(read_texts(tmp_path / "in.parquet", "body"))


def test_a_bad_row_far_into_a_file_leaves_the_parts_before_it(model, tmp_path, capsys):
    good = [json.dumps({"text": f"text {number}"}) for number in range(1200)]
    (tmp_path / "in.jsonl").write_text("\n".join([*good, "{oops"]))
    command = ["embed", str(model[0]), str(tmp_path / "in.jsonl"), str(tmp_path / "out"), "--shard-size", "500"]
    assert main(command) == 2
    assert "line 1201: not JSON" in capsys.readouterr().err
    assert len(list((tmp_path / "out").glob("part-*.parquet"))) == 2
    (tmp_path / "in.jsonl").write_text("\n".join(good))
    assert main(command) == 0
    assert "3 parts, 2 of them there already" in capsys.readouterr().out


def test_a_file_that_is_not_there_is_refused(tmp_path, capsys):
    assert main(["embed", "no-such-model", str(tmp_path / "in.txt"), str(tmp_path / "out.npy")]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "options", "part"),
    [
        ("out.csv", [], ".npy or .parquet"),
        ("out.npy", ["--shard-size", "5"], "--shard-size"),
        ("out.parquet", ["--format", "npy"], "--format"),
        ("out.npy", ["--id-column", "id"], "no place for ids"),
        ("out", ["--id-column", "id"], "has no columns"),
        ("no/out.npy", [], "make it first"),
    ],
)
def test_an_output_that_cannot_be_is_refused(tmp_path, capsys, out, options, part):
    (tmp_path / "in.txt").write_text("text\n")
    assert main(["embed", "no-such-model", str(tmp_path / "in.txt"), str(tmp_path / out), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert part in line


def test_an_instruction_without_room_for_text_and_too_many_dimensions_are_refused(model, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("text\n")
    command = ["embed", str(model[0]), str(tmp_path / "in.txt"), str(tmp_path / "out")]
    for options, part in (
        (["--max-length", "20", "--instruction", "find a text"], "leaves no room for text"),
        (["--dimensions", "33"], "this model's vectors have 32"),
    ):
        assert main([*command, *options]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert part in line
    assert not (tmp_path / "out").exists()
