"""A task that waits for its TrainJob, as a process: `launcher.py FOLDER`, with KUBECONFIG."""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from cluster.jobs import POD, QUICK, RUN, Deed, resources

    from nvembed.cluster.api import connect
    from nvembed.cluster.launching import Launch

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    Launch(connect(patience=5), resources(), POD, RUN, QUICK).run(Deed(Path(sys.argv[1])))
