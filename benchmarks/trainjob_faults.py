"""TrainJobs under random faults: how often the right thing comes of it.

Each run is one pipeline run's training stage on a local server that behaves as the Kubernetes API does, through the
real client: a job that waits in a queue or not, ends well or badly, whose launcher is killed, evicted, ended or left
alone, while requests are answered 429 or 5xx, connections are dropped before or after a request took effect, answers
are cut, and watches are too old. A task that fails is tried again, as Kubeflow does. Afterwards the workflow ends and
the reaper comes round. Counted is what must never be:

    a job left that should be gone, a job gone that should run, two jobs at once, a result lost, a line of a log lost

    python benchmarks/trainjob_faults.py --runs 200 [--seed 1] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from cluster.fake_k8s import serve
from cluster.fake_store import Api
from cluster.fake_trainer import Script, Trainer
from cluster.jobs import NAME, POD, QUICK, RUN, Deed, cluster, furnish, resources

from nvembed.cluster.api import ClusterError
from nvembed.cluster.launching import Launch
from nvembed.cluster.reaping import reap

FAULTS = ("429", "500", "503", "drop", "drop-after", "cut")  # and 410, to a watch
ENDINGS = ("left alone", "killed", "evicted", "ended")
TRIES = 4  # of a task; more than enough for what a run's scripts do


class Killed(BaseException):
    """Stands for SIGKILL: the launcher is gone and does nothing more."""


class Launcher(threading.Thread):
    """One try of the task. `kill` makes it vanish, `end` is SIGTERM: both strike where it next asks the API."""

    def __init__(self, api: Api, deed: Deed, queue: str | None) -> None:
        super().__init__(daemon=True)
        self.api, self.outcome, self.strike = api, "", None
        self._cluster, self._deed = cluster(api, patience=60), deed
        wanted = resources(trainjob={"queue": queue} if queue else {})
        self._launch = Launch(self._cluster, wanted, POD, RUN, QUICK)
        call = self._cluster.call
        self._cluster.call = lambda *a, **o: self._struck() or call(*a, **o)  # type: ignore[method-assign]

    def _struck(self) -> None:
        if self.strike is Killed:
            raise Killed
        if self.strike is SystemExit:
            self.strike = None
            raise SystemExit(143)

    def run(self) -> None:
        try:
            self._launch.run(self._deed)
            self.outcome = "complete"
        except ClusterError:
            self.outcome = "failed"
        except Killed:
            self.outcome = "killed"
        except SystemExit:
            self.outcome = "ended"
        except Exception as error:  # noqa: BLE001 - counted, and shown
            self.outcome = f"broke: {type(error).__name__}: {error}"


class Lines(logging.Handler):
    """Collects the ranks' lines of one launcher."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def one_run(seed: int, wrong: Counter[str], seen: Counter[str]) -> None:
    """One run; adds what went wrong and what there was."""
    draw, rate = random.Random(seed), random.Random(seed).choice((0.0, 0.05, 0.15, 0.3))
    ending, queue = draw.choice(ENDINGS), draw.choice((None, "gpus"))
    fault_draw, lock, faults = random.Random(seed + 1), threading.Lock(), Counter[str]()

    def fault(method: str, path: str, query: dict[str, list[str]]) -> str | None:
        with lock:
            kind = fault_draw.choice(FAULTS) if fault_draw.random() < rate else None
            if "watch" in query and rate and fault_draw.random() < 0.3:
                kind = "410"
            if kind:
                faults[kind] += 1
            return kind

    with tempfile.TemporaryDirectory() as folder, serve() as api, contextlib.ExitStack() as stack:
        furnish(api)
        api.faults = fault
        deed, lines = Deed(Path(folder)), Lines()
        stack.callback(logging.getLogger("nvembed.ranks").removeHandler, lines)
        logging.getLogger("nvembed.ranks").addHandler(lines)
        waits = {"queued": draw.randint(0, 40), "pending": draw.choice((0, 0, 10))}
        bad = draw.random() < 0.4
        scripts = [Script(**waits, ticks=draw.randint(20, 60), end="fail")] if bad else []
        scripts += [Script(**waits, ticks=draw.randint(20, 60), at_end=deed.finish)]
        trainer = stack.enter_context(Trainer(api, *scripts))
        most = _watch_jobs(api, stack)
        for attempt in range(TRIES):
            lines.lines.clear()
            task = Launcher(api, deed, queue)
            task.start()
            if attempt == 0 and ending != "left alone":
                _strike(api, task, ending, draw.uniform(0.1, 1.0))
            task.join(timeout=120)
            if task.is_alive() or task.outcome.startswith("broke"):
                wrong[task.outcome or "hangs"] += 1
                return
            seen[f"task {task.outcome}"] += 1
            if task.outcome == "complete":
                break
            if task.outcome == "ended" and ending == "ended":
                _until(lambda: not api.all("trainjobs"), wrong, "a job left that should be gone")
                break
            if task.outcome in ("ended", "killed") and not _has(api) and trainer.made and not deed.finished():
                wrong["a job gone that should run"] += 1
            api.change("pods", POD, lambda pod: pod["status"].pop("conditions", None))
        if ending != "ended" or deed.finished():
            wrong["a result lost"] += not deed.finished()
        if task.outcome == "complete" and attempt == 0 and not bad:
            wrong["a line of a log lost or told twice"] += _lines_wrong(lines.lines, scripts[-1].ticks)
        wrong["two jobs at once"] += most() > 1
        wrong["more jobs than failures and strikes ask for"] += len(trainer.made) > 1 + bad
        _reap(api, wrong)
    seen[f"launcher {ending}"] += 1
    seen["job that fails first"] += bad
    seen["queued"] += queue is not None
    for kind, count in faults.items():
        seen[f"fault {kind}"] += count


def _strike(api: Api, task: Launcher, ending: str, after: float) -> None:
    time.sleep(after)
    if ending == "evicted":
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
        api.change("pods", POD, lambda pod: pod["status"].update(conditions=[condition]))
    task.strike = Killed if ending == "killed" else SystemExit


def _watch_jobs(api: Api, stack: contextlib.ExitStack):  # type: ignore[no-untyped-def]
    """A thread that counts jobs that have living pods; the most at once."""
    most, stop = [0], threading.Event()

    def look() -> None:
        while not stop.wait(0.005):
            owners = {
                pod["metadata"]["ownerReferences"][0]["uid"]
                for pod in api.all("pods")
                if pod["metadata"]["name"] != POD and pod["status"]["phase"] in ("Pending", "Running")
            }
            most[0] = max(most[0], len(owners))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    stack.callback(thread.join)
    stack.callback(stop.set)
    return lambda: most[0]


def _lines_wrong(lines: list[str], ticks: int) -> int:
    wanted = {node: [f"[node {node}] [rank {node}] step {step}" for step in range(1, ticks + 1)] for node in (0, 1)}
    told = {node: [line for line in lines if line.startswith(f"[node {node}] ")] for node in (0, 1)}
    return int(told != wanted)


def _has(api: Api) -> bool:
    return any(not job["metadata"].get("deletionTimestamp") for job in api.all("trainjobs"))


def _until(true, wrong: Counter[str], what: str) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 10
    while not true():
        if time.monotonic() > deadline:
            wrong[what] += 1
            return
        time.sleep(0.01)


def _reap(api: Api, wrong: Counter[str]) -> None:
    """The reaper leaves the job while the workflow runs, and takes it once that has ended."""
    before = api.find("trainjobs", NAME)
    reap(cluster(api, patience=60))
    if before is not None and api.find("trainjobs", NAME) is None:
        wrong["a job gone that should run"] += 1
    api.change("workflows", "nvembed-abcde", lambda one: one["status"].update(phase="Failed"))
    reap(cluster(api, patience=60))
    _until(lambda: not api.all("trainjobs"), wrong, "a job left that should be gone")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    logging.getLogger("nvembed").setLevel(logging.CRITICAL)
    logging.getLogger("nvembed.ranks").setLevel(logging.INFO)
    logging.getLogger("nvembed.ranks").propagate = False
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    wrong, seen = Counter[str](), Counter[str]()
    started = time.monotonic()
    for number in range(given.runs):
        before = wrong.total()
        one_run(given.seed * 100_000 + 2 * number, wrong, seen)
        if wrong.total() > before:
            print(f"run {number}: {dict(wrong)}", flush=True)
    tally = {
        "runs": given.runs,
        "seed": given.seed,
        "wrong": {name: count for name, count in sorted(wrong.items()) if count},
        "seen": dict(sorted(seen.items())),
        "seconds": round(time.monotonic() - started, 1),
    }
    text = json.dumps(tally, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")
    return int(bool(tally["wrong"]))


if __name__ == "__main__":
    sys.exit(main())
