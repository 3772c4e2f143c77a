"""Starts a job as `train_stage` does, so that a test can kill the starter: `driver.py JOB.json RANKS`.

What the user has to mend goes to standard error; the exit code is 2 then.
"""

import sys
from pathlib import Path

from nvembed.core.errors import UserError
from nvembed.training.job import Job
from nvembed.training.launch import run_workers

if __name__ == "__main__":
    path = Path(sys.argv[1])
    job = Job.read(path)
    log = path.parent / "worker.log"
    try:
        run_workers(path, device=job.device, processes=int(sys.argv[2]), threads=job.threads, log=log)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
