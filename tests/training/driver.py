"""Starts a job as `train_stage` does, so that a test can kill the starter: `driver.py JOB.json RANKS`."""

import sys
from pathlib import Path

from nvembed.training.job import Job
from nvembed.training.launch import run_workers

if __name__ == "__main__":
    path = Path(sys.argv[1])
    job = Job.read(path)
    run_workers(
        path, device=job.device, processes=int(sys.argv[2]), threads=job.threads, log=path.parent / "worker.log"
    )
