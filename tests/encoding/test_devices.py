"""Several devices, here two processes on the CPU: the same vectors in the same order, and nobody waits for the dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from modeling_helpers import INSTRUCTION, furthest

from nvembed import NVEmbedModel
from nvembed.core.errors import UserError
from nvembed.core.lifeline import process_identity
from nvembed.encoding import encode
from nvembed.modeling.plan import make_plan
from nvembed.modeling.workers import Workers

MANY = [f"text {number} " * (number % 9 + 1) for number in range(120)] + ["the same text twice"] * 2


@pytest.fixture(scope="module")
def saved(model: NVEmbedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.save_pretrained(tmp_path_factory.mktemp("saved") / "model")


def test_two_devices_give_the_vectors_of_one_in_the_same_order(model, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    expected = encode(model, MANY, instruction=INSTRUCTION, precision="float32")
    found = encode(model, MANY, instruction=INSTRUCTION, precision="float32", devices=["cpu", "cpu"])
    assert furthest(found, expected) < 1e-6
    assert list(tmp_path.iterdir()) == []  # the weights that went to the workers


@pytest.mark.slow
def test_both_workers_take_part_and_the_parent_hears_how_far_they_are(model, saved) -> None:
    with Workers(model, make_plan(model, precision="int8"), ["cpu", "cpu"], saved) as workers:
        heard: list[int] = []
        found = workers.encode(MANY, heard.append)
        assert sum(workers.shares) == len(MANY)
        assert min(workers.shares) > 0
        assert len(heard) > 2
        assert heard == sorted(heard)
        assert heard[-1] == len(MANY)
        assert np.array_equal(workers.encode([]), found[:0])
        assert np.array_equal(workers.encode(MANY), found)
    assert (found.dtype, found.shape) == (np.int8, (len(MANY), 32))


def test_a_worker_that_dies_is_an_error_and_no_hang(model, saved) -> None:
    with (
        pytest.raises(RuntimeError, match="worker on cpu was ended by signal 9"),
        Workers(model, make_plan(model), ["cpu"], saved) as workers,
    ):
        os.kill(workers._workers[0].process.pid, signal.SIGKILL)
        workers.encode(MANY)


def test_a_workers_own_failure_comes_with_its_traceback(model, saved) -> None:
    nonsense = replace(make_plan(model), batch_tokens=None)
    with (
        pytest.raises(RuntimeError, match=r"(?s)worker on cpu failed:.*Traceback.*TypeError"),
        Workers(model, nonsense, ["cpu"], saved) as workers,
    ):
        workers.encode(MANY)


@pytest.mark.slow
def test_what_the_user_can_mend_comes_from_a_worker_as_the_users_error(model, tmp_path) -> None:
    with pytest.raises(UserError, match=r"config\.json"), Workers(model, make_plan(model), ["cpu"], tmp_path):
        pass


def test_workers_die_with_their_parent(saved) -> None:
    code = f"""
if __name__ == "__main__":
    import sys, time
    from nvembed import NVEmbedModel
    from nvembed.modeling.plan import make_plan
    from nvembed.modeling.workers import Workers
    model = NVEmbedModel.from_pretrained({str(saved)!r})
    with Workers(model, make_plan(model), ["cpu"], {str(saved)!r}) as workers:
        print(workers._workers[0].process.pid, flush=True)
        time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert process_identity(worker)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while process_identity(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process_identity(worker) is None
