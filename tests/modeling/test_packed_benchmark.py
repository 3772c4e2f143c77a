"""`benchmarks/packed.py` itself: it runs, on a tiny model, and says so where it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "packed.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


def test_it_measures_each_form_and_keeps_the_figures(tmp_path: Path) -> None:
    done = run("--tiny", "--repeats", "1", "--save", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    assert "of peak" in done.stdout
    facts = json.loads((tmp_path / "found.json").read_text())
    assert {"date", "commit", "cpu", "gpus", "packages"} <= facts["machine"].keys()
    for part in ("encoding", "training"):
        forms = facts[part]["forms"]
        assert set(forms) == {"packed", "padded, by length", "padded, in order"}
        assert all(form["tokens_per_second"] > 0 and form["share_of_peak"] > 0 for form in forms.values())
    assert facts["encoding"]["least_cosine"] == pytest.approx(1, abs=1e-5)
    assert facts["training"]["gradient_cosine"] == pytest.approx(1, abs=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    done = run()
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.strip().splitlines() == [
        "benchmarks/packed.py needs a CUDA GPU; --tiny tries the script on a CPU"
    ]
