"""Blocks follow from the texts; their vectors are kept, found again, and refused if they are another model's."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from nvembed.encoding import Parts, encode, encode_blocks
from nvembed.encoding.blocks import cut_blocks
from nvembed.encoding.parts import Reordered
from nvembed.modeling import NVEmbedModel
from nvembed.modeling.encoder import Encoder


def keys(count: int, seed: int = 1) -> np.ndarray:
    return np.unique(np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64))


@pytest.mark.parametrize("count", [0, 1, 7, 1000])
@pytest.mark.parametrize("size", [1, 4, 64, 8192])
def test_blocks_cover_all_texts_in_order(monkeypatch: pytest.MonkeyPatch, count: int, size: int) -> None:
    monkeypatch.setattr("nvembed.encoding.blocks.BLOCK_TEXTS", size)
    found = keys(count)
    blocks = cut_blocks(found)
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(len(found)))
    assert all(block.stop > block.start for block in blocks)
    assert len(blocks) <= max(1, 2 * count / size)


def test_a_text_more_changes_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvembed.encoding.blocks.BLOCK_TEXTS", 16)
    before = keys(900)
    after = np.unique(np.append(before, np.uint64(2**63 + 5)))
    one, other = ({tuple(found[block]) for block in cut_blocks(found)} for found in (before, after))
    assert len(other - one) == 1


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NVEmbedModel:
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path / "state"))
    monkeypatch.setattr("nvembed.encoding.blocks.BLOCK_TEXTS", 8)
    return NVEmbedModel.from_card("random:mistral-tiny", max_length=32)


TEXTS = [f"passage number {number}" for number in range(40)]
KEYS = np.sort(np.random.default_rng(5).integers(0, 2**64, 40, dtype=np.uint64))


def blocks_of(model: NVEmbedModel, **options) -> Parts:
    return encode_blocks(model, KEYS, lambda part: TEXTS[part], **options)


def test_vectors_are_those_of_encode_in_the_order_of_the_keys(model: NVEmbedModel) -> None:
    found = blocks_of(model, prefix="passage: ", precision="float32")
    expected = encode(model, ["passage: " + text for text in TEXTS], precision="float32")
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-5)
    np.testing.assert_array_equal(found[[5, 39, 0]], np.asarray(found)[[5, 39, 0]])


def test_shares_of_the_blocks_are_the_whole_and_cost_nothing_twice(
    model: NVEmbedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = [blocks_of(model, only=lambda block, n=n: block % 3 == n) for n in range(3)]
    assert sum(map(len, shares)) == 40
    monkeypatch.setattr(Encoder, "encode", lambda *_: pytest.fail("encodes anew"))
    whole = np.asarray(blocks_of(model))
    rows = [block for n in range(3) for number, block in enumerate(cut_blocks(KEYS)) if number % 3 == n]
    np.testing.assert_array_equal(np.concatenate([whole[block] for block in rows]), np.concatenate(shares))


def test_another_prefix_another_length_and_another_instruction_are_other_vectors(model: NVEmbedModel) -> None:
    first = np.asarray(blocks_of(model))
    for changed in ({"prefix": "query: "}, {"max_length": 4}, {"instruction": "Find it"}):
        assert np.abs(np.asarray(blocks_of(model, **changed)) - first).max() > 1e-3


def test_parts_behave_as_one_array(tmp_path: Path) -> None:
    whole = np.random.default_rng(2).standard_normal((23, 5)).astype(np.float32)
    bounds = [0, 0, 7, 8, 23]
    files = []
    for number, (start, stop) in enumerate(pairwise(bounds)):
        files.append(tmp_path / f"{number}.npy")
        np.save(files[-1], whole[start:stop])
    parts = Parts(files, np.diff(bounds).tolist(), 5)
    both = parts + Parts(files[:2], [0, 7], 5)
    for index in (slice(None), slice(3, 9), slice(8, 8), slice(20, 90), slice(2, 20, 3), [], [22, 0, 7, 7], -1, 4):
        np.testing.assert_array_equal(parts[index], whole[index])
    np.testing.assert_array_equal(np.asarray(both), np.concatenate([whole, whole[:7]]))
    order = np.random.default_rng(4).permutation(23)
    np.testing.assert_array_equal(Reordered(parts, order)[5:15], whole[order[5:15]])
    with pytest.raises(IndexError):
        parts[[23]]
