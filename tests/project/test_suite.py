"""How the tests share a machine: files whole on one worker, long ones first, and what is shared made once."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import LONG, made_once, pytest_collection_modifyitems

TESTS = Path(__file__).resolve().parents[1]


def ask(folder: Path, log: Path) -> None:
    """Ask for what is made once; note each time that it is made."""

    def make() -> int:
        with log.open("a", encoding="utf-8") as stream:
            stream.write(f"{os.getpid()}\n")
        time.sleep(0.3)  # the others come meanwhile
        return os.getpid()

    found = made_once(folder, make)
    with (log.parent / "found").open("a", encoding="utf-8") as stream:
        stream.write(f"{found}\n")


def test_what_processes_share_is_made_by_one_of_them(tmp_path: Path) -> None:
    workers = [
        multiprocessing.get_context("fork").Process(target=ask, args=(tmp_path / "shared", tmp_path / "log"))
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)

    (maker,) = (tmp_path / "log").read_text().split()
    assert (tmp_path / "found").read_text().split() == [maker] * 3


def test_long_files_come_first_and_the_order_within_a_file_stays() -> None:
    assert [name for name in LONG if not (TESTS / name).is_file()] == []
    files = [*LONG[1:3], "core/test_state.py", LONG[0], "test_zero.py"]
    items = [SimpleNamespace(path=TESTS / name, at=at) for at in (2, 1) for name in files]
    pytest_collection_modifyitems(items)  # type: ignore[arg-type]
    assert [item.path for item in items[:6]] == [TESTS / name for name in LONG[:3] for _ in range(2)]
    assert [item.at for item in items[:6]] == [2, 1] * 3
    assert [item.path.name for item in items[6:]] == ["test_state.py", "test_zero.py"] * 2


def test_a_worker_keeps_a_file(request: pytest.FixtureRequest) -> None:
    """pytest-xdist's `loadgroup` would not do: it writes groups into `item._nodeid`, which pytest 9 does not read."""
    from xdist.scheduler import LoadFileScheduling

    made = (TESTS.parent / "Makefile").read_text(encoding="utf-8")
    assert "--dist loadfile --no-loadscope-reorder" in made
    split = LoadFileScheduling._split_scope
    assert {split(None, item.nodeid) for item in request.session.items} == {  # type: ignore[arg-type]
        item.path.relative_to(TESTS.parent).as_posix() for item in request.session.items
    }
