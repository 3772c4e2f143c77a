"""`nvembed ablate` for real: trained by the engine, killed, started again; only what is missing is done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from ablation.small import TREE, write_pairs
from conftest import nvembed

FAMILY = ["--family", "pooling", "--set", "ablation.learning_rate_factors=[1.0]"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablate")
    tree = json.loads(json.dumps(TREE))
    tree["data"]["path"] = str(write_pairs(folder / "my.jsonl"))
    del tree["ablation"]["families"]["pooling"]["variants"]["last"]
    (folder / "small.yaml").write_text(yaml.safe_dump(tree))
    return folder


def cells(place):
    return {file.parent.parent.name: file.read_text() for file in place.glob("out/state/ablation/*/test/manifest.json")}


def test_killed_and_started_again_it_does_only_what_is_missing(place):
    arguments = ["ablate", "--recipe", "small.yaml", *FAMILY, "--output-dir", "out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "nvembed.cli", *arguments], cwd=place, env=os.environ, stdout=subprocess.DEVNULL
    )
    until = time.monotonic() + 500
    while not cells(place) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = cells(place)
    assert 1 <= len(before) < 4
    assert not (place / "out" / "ablate").exists()

    plan = nvembed(*arguments, "--plan", cwd=place)
    assert plan.returncode == 0, plan.stderr
    assert f"4 measurements of cells, {len(cells(place))} of them done" in plan.stdout
    done = nvembed(*arguments, cwd=place)
    assert done.returncode == 0, done.stderr
    after = cells(place)
    assert len(after) == 4 and all(after[name] == manifest for name, manifest in before.items())
    content = json.loads((place / "out" / "ablate" / "results.json").read_text())
    (row,) = content["families"]["pooling"]["differences"]
    assert row["low"] <= row["mean"] <= row["high"]
    assert f"({row['task']} nDCG@10" in done.stdout
    assert not list(place.glob("out/state/ablation/*/stage1")), "trained tensors are dropped once all is measured"


def test_bad_input_is_one_line_and_exit_code_2(place):
    done = nvembed("ablate", "--recipe", "small.yaml", "--family", "poling", "--output-dir", "out2", cwd=place)
    assert done.returncode == 2
    assert "did you mean 'pooling'" in done.stderr and len(done.stderr.strip().splitlines()) == 1
