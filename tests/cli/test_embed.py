"""`nvembed embed`: every text of a file, in its order, as `NVEmbedModel.encode` would have it."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nvembed.cli import main
from nvembed.cli.commands_embed import read_texts

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
    assert read_texts(source, "text") == TEXTS


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


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("in.csv", "text\n", ".jsonl"),
        ("in.txt", "", "is empty"),
        ("in.jsonl", '{"text": "a"}\n{oops\n', "line 2"),
        ("in.jsonl", '{"text": "a"}\n{"other": "b"}\n', "row 2"),
        ("in.parquet", "this is no parquet", "Parquet"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line_before_the_model_is_read(
    tmp_path, capsys, name, content, part
):
    (tmp_path / name).write_text(content)
    assert main(["embed", "no-such-model", str(tmp_path / name), str(tmp_path / "out.npy")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert part in line
    assert not (tmp_path / "out.npy").exists()


def test_a_file_that_is_not_there_is_refused(tmp_path, capsys):
    assert main(["embed", "no-such-model", str(tmp_path / "in.txt"), str(tmp_path / "out.npy")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_an_output_of_another_kind_is_refused(tmp_path, capsys):
    (tmp_path / "in.txt").write_text("text\n")
    assert main(["embed", "no-such-model", str(tmp_path / "in.txt"), str(tmp_path / "out.csv")]) == 2
    assert ".npy or .parquet" in capsys.readouterr().err
