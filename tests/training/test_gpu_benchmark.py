"""`benchmarks/train_gpu.py` itself: it runs, on a tiny model, with nothing but what a GPU machine has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "train_gpu.py"
ABSENT = ("deepspeed", "pydantic", "pyarrow", "sentence_transformers", "kfp", "mlflow", "matplotlib", "pandas")
RUN = """
import runpy, sys
sys.modules.update(dict.fromkeys({absent}))  # importing any of these fails
sys.path.insert(0, {folder!r})
sys.argv = {arguments!r}
runpy.run_path({script!r}, run_name="__main__")
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    told = {"absent": ABSENT, "folder": str(SCRIPT.parent), "script": str(SCRIPT), "arguments": ["x", *arguments]}
    command = [sys.executable, "-c", RUN.format(**told)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_measures_each_case_and_keeps_the_figures(tmp_path: Path) -> None:
    done = run("--tiny", "--batch", "8", "--steps", "1", "--save", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads((tmp_path / "found.json").read_text())
    assert {"date", "commit", "gpus", "packages"} <= facts["machine"].keys()
    assert facts["gemm_peak"] > 0
    assert set(facts["cases"]) == {"cache", "accumulate", "baseline"}
    for case in facts["cases"].values():
        assert case["tokens_per_second"] > 0
        assert case["share_of_peak"] > 0
        assert len(case["seconds"]) == 1
    cache, accumulate = (facts["cases"][case] for case in ("cache", "accumulate"))
    assert cache["tokens"] == accumulate["tokens"]
    assert accumulate["flops"][0] < cache["flops"][0], "it goes forward once"
    assert accumulate["loss"][0] < cache["loss"][0], "it is compared with fewer documents"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    done = run()
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.strip().splitlines() == [
        "benchmarks/train_gpu.py needs a CUDA GPU; --tiny tries the script on a CPU"
    ]
