"""Vectors made smaller: fewer dimensions, int8, bits, held against Sentence Transformers and plain arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from modeling_helpers import TEXTS, furthest

from nvembed.core.errors import UserError
from nvembed.encoding import encode, encode_cached
from nvembed.modeling.vectors import to_binary, to_float32, to_int8, truncate


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    drawn = np.random.default_rng(3).normal(size=(200, 70)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.mark.parametrize("kept", [1, 8, 33, 70])
def test_truncation_is_what_sentence_transformers_truncates_to_and_normalises(vectors, kept) -> None:
    import torch
    from sentence_transformers.util import normalize_embeddings, truncate_embeddings

    expected = normalize_embeddings(truncate_embeddings(torch.tensor(vectors), kept)).numpy()
    assert furthest(truncate(vectors, kept), expected) < 1e-6


def test_a_row_without_length_in_the_kept_dimensions_stays_zero() -> None:
    rows = np.array([[0, 0, 1], [0, 3, 4]], dtype=np.float32)
    assert truncate(rows, 2).tolist() == [[0, 0], [0, 1]]


def test_int8_is_each_row_by_its_own_largest_entry_rounded(vectors) -> None:
    stored = to_int8(vectors)
    assert stored.dtype == np.int8
    for row, found in zip(vectors.astype(np.float64), stored, strict=True):
        scale = max(abs(float(entry)) for entry in row) / 127
        assert [round(float(entry) / scale) for entry in row] == found.tolist()
    assert np.abs(stored).max(axis=1).tolist() == [127] * len(stored)


def test_int8_gives_nearly_the_same_cosines_whatever_a_rows_scale(vectors) -> None:
    scaled = vectors * np.linspace(0.1, 7, len(vectors), dtype=np.float32)[:, None]
    read_back = to_float32(to_int8(scaled))
    assert furthest(read_back @ read_back.T, vectors @ vectors.T) < 0.01


def test_bits_are_those_of_sentence_transformers(vectors) -> None:
    from sentence_transformers.util import quantize_embeddings

    for kept in (70, 64, 5):
        cut = truncate(vectors, kept)
        assert np.array_equal(to_binary(cut), quantize_embeddings(cut, "ubinary"))


def test_cosines_of_bits_follow_the_hamming_distance(vectors) -> None:
    bits = vectors > 0
    hamming = (bits[:, None, :] != bits[None, :, :]).sum(-1)
    read_back = to_float32(to_binary(vectors), 70)
    assert furthest(read_back @ read_back.T, 1 - 2 * hamming / 70) < 1e-6


def test_a_zero_row_is_stored_as_zeros_without_a_warning() -> None:
    zeros = np.zeros((1, 8), np.float32)
    with np.errstate(all="raise"):
        assert to_int8(zeros).tolist() == [[0] * 8]
        assert to_binary(zeros).tolist() == [[0]]
        assert to_float32(to_int8(zeros)).tolist() == [[0] * 8]


@pytest.mark.parametrize(
    ("precision", "dimensions", "width", "dtype"),
    [("int8", None, 32, "int8"), ("binary", 20, 3, "uint8"), ("float32", 20, 20, "float32"), (None, 32, 32, "float32")],
)
def test_encode_stores_as_asked(model, precision, dimensions, width, dtype) -> None:
    full = model.encode(TEXTS)
    cut = full if dimensions is None else truncate(full, dimensions)
    expected = {"int8": to_int8, "binary": to_binary}.get(precision or "", lambda rows: rows)(cut)
    found = model.encode(TEXTS, precision=precision, dimensions=dimensions)
    assert (found.shape, found.dtype) == ((len(TEXTS), width), np.dtype(dtype))
    # another batch may round otherwise: int8 by one step, a bit not at all so far from zero
    assert np.abs(found.astype(float) - expected.astype(float)).max() <= (1 if precision == "int8" else 1e-6)
    assert model.encode([], precision=precision, dimensions=dimensions).shape == (0, width)


def test_the_rooms_encode_and_its_cache_store_alike(model) -> None:
    stored = encode(model, TEXTS, precision="int8", dimensions=16)
    assert np.array_equal(encode_cached(model, TEXTS, precision="int8", dimensions=16), stored)
    assert encode_cached(model, TEXTS, precision="binary", dimensions=16).shape == (len(TEXTS), 2)
    assert encode_cached(model, TEXTS, dimensions=16).dtype == np.float32


@pytest.mark.parametrize("dimensions", [0, 33, -1, 2.5, True, "8"])
def test_dimensions_that_the_model_does_not_have_are_refused_in_one_line(model, dimensions) -> None:
    with pytest.raises(UserError, match="this model's vectors have 32"):
        model.encode(TEXTS, dimensions=dimensions)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"precision": "int4"}, "known: auto, float32, bfloat16, int8, binary"),
        ({"batch_tokens": 0}, "positive whole number"),
        ({"devices": ["tpu7"]}, "cuda:1"),
        ({"devices": ["cuda:99"]}, "usable GPUs"),
        ({"devices": "cpu"}, "give a list"),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_line(model, options, part) -> None:
    for function in (model.encode, lambda texts, **given: encode(model, texts, **given)):
        with pytest.raises(UserError, match=part):
            function(TEXTS, **options)


def test_an_option_nobody_knows_is_an_error(model) -> None:
    with pytest.raises(TypeError, match="precisoin"):
        encode(model, TEXTS, precisoin="int8")
