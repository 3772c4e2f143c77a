"""What spools still hold, sent: by `finalize_run` for its run, by `nvembed track sync` for all runs of this state."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from nvembed.core.state import hold
from nvembed.tracking.spool import Spool

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sent:
    """One task's spool: how many metrics went to its run now; `held`: its task lives and sends them itself."""

    run_id: str
    task: str
    metrics: int
    held: bool = False


def send_spools(run_id: str | None = None) -> Iterator[Sent]:
    """Send what the spools of a pipeline run hold, or those of all runs, and close the tasks' runs; one after another.

    A task that did not live to say how it ended is closed as killed. Again changes nothing. Raises what MLflow raises;
    what was not sent by then stays in its spool.
    """
    from nvembed.tracking.courier import Courier

    for spool, ledger in Spool.all_of(run_id):
        if ledger.closed:
            continue
        try:
            with hold(spool.folder, timeout=0):
                ledger.status = ledger.status or "KILLED"  # nobody holds it: the task did not live to say
                yield Sent(ledger.run_id, ledger.task, Courier(spool, ledger, threading.Lock()).deliver())
        except TimeoutError:
            logger.debug("%s is still being written", spool.folder)
            yield Sent(ledger.run_id, ledger.task, 0, held=True)
