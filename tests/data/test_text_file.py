"""Texts on disk come back by number; what a killed process left there goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nvembed.core.state import hold
from nvembed.data import text_file as module
from nvembed.data.text_file import text_file


@pytest.mark.parametrize("batch", [3, 20_000])
def test_texts_are_taken_by_number_in_the_order_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(module, "BATCH", batch)
    texts = [f"text {number} ü\n" for number in range(25)] + [""]
    with text_file(tmp_path) as file:
        assert file.add(texts[:4]) == 0
        assert file.add([]) == 4
        assert file.add(texts[4:]) == 4
        assert len(file) == 26
        file.close()
        order = np.random.default_rng(3).integers(0, 26, 80)
        assert file.take(order) == [texts[number] for number in order]
        assert file.take(np.empty(0, np.int64)) == []


def test_the_file_is_gone_afterwards_and_so_is_what_a_dead_process_left(tmp_path: Path) -> None:
    dead, living = tmp_path / "texts-dead", tmp_path / "texts-living"
    for folder in (dead, living):
        folder.mkdir()
        (folder / "texts.arrow").write_bytes(b"much")
    with hold(living):
        with text_file(tmp_path) as file:
            file.add(["a"])
            file.close()
        assert not dead.exists()
        assert [path.name for path in tmp_path.iterdir()] == ["texts-living"]
