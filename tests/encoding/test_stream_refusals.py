"""What cannot be streamed is refused in one line, and what was finished before it stays."""

from __future__ import annotations

import pytest

from nvembed import NVEmbedModel
from nvembed.core.errors import UserError
from nvembed.encoding import encode_stream, read_vectors
from nvembed.recipe import load_recipe

MANY = [f"text {number} " * (number % 7 + 1) for number in range(50)]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"instruction": "find it"}, "prefix"),
        ({"max_length": 33}, "max_length"),
        ({"dimensions": 5}, "dimensions"),
        ({"precision": "binary"}, "stored_as"),
        ({"precision": "bfloat16"}, "computed_in"),
        ({"shard_size": 11}, "shard_size 20, not 11"),
        ({"format": "npy"}, "format"),
        ({"keep_texts": False}, "texts"),
    ],
)
def test_a_folder_made_with_other_settings_is_refused_in_one_line(model, tmp_path, other, named) -> None:
    encode_stream(model, MANY, tmp_path / "out", shard_size=20)
    with pytest.raises(UserError, match=named) as refusal:
        encode_stream(model, MANY, tmp_path / "out", **{"shard_size": 20, **other})
    assert "\n" not in str(refusal.value)


def test_a_folder_of_another_model_or_of_other_files_is_refused(model, tmp_path) -> None:
    encode_stream(model, MANY, tmp_path / "out")
    other = NVEmbedModel.from_section(load_recipe("tiny", ["model.seed=18"]).model)
    with pytest.raises(UserError, match="made with another model"):
        encode_stream(other, MANY, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(UserError, match="holds other files"):
        encode_stream(model, MANY, tmp_path / "mine")
    with pytest.raises(UserError, match="cannot be made a folder"):
        encode_stream(model, MANY, tmp_path / "mine" / "notes.txt")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("bad", [None, b"bytes", 7, ("id", "text"), "\ud800"])
def test_a_bad_text_is_named_by_its_place_and_costs_only_its_own_part(model, tmp_path, encoded, bad) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"texts\[37\]"):
        encode_stream(model, (bad if number == 37 else text for number, text in enumerate(MANY)), out, shard_size=10)
    with pytest.raises(UserError, match="is not finished"):
        read_vectors(out)
    encoded()
    assert encode_stream(model, MANY, out, shard_size=10).made == 2
    assert encoded() == 20


@pytest.mark.parametrize("pairs", [[("a", "x"), "y"], [("a", "x"), (2, "y")], [("a", "x"), ("b", None)]])
def test_a_pair_that_is_none_is_refused(model, tmp_path, pairs) -> None:
    with pytest.raises(UserError, match=r"texts\[1\]"):
        encode_stream(model, pairs, tmp_path / "out")


@pytest.mark.parametrize(
    ("texts", "options", "part"),
    [
        ("a lone text", {}, "one str"),
        (MANY, {"shard_size": 0}, "shard_size"),
        (MANY, {"format": "csv"}, "parquet, npy"),
        ([("a", "x")], {"format": "npy"}, "no place for ids"),
        (MANY, {"instruction": "find it " * 40}, "leaves no room"),
    ],
)
def test_what_cannot_be_is_refused_before_a_folder_is_made(model, tmp_path, texts, options, part) -> None:
    with pytest.raises(UserError, match=part):
        encode_stream(model, texts, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
