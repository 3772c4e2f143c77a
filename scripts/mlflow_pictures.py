"""Pictures of MLflow's page that compares runs, from a real browser: the parallel-coordinates plot and the tables.

    python scripts/mlflow_pictures.py --output-dir nvembed-out        # after two `nvembed run` or more

Needs Chromium (Debian: `apt install chromium`), which is steered by its own debugging protocol; nothing is clicked by
hand. Pictures go to docs/pictures/.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import websocket

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 180.0  # seconds for a server or a page to come up
WIDTH = 1280
_FOUND = "[...document.querySelectorAll('body *')].filter(e => e.textContent.trim() == '{word}').pop()"
_WORDS = "document.body.innerText"
_SECTIONS = ("Parameters", "Artifacts")  # the tables stand from the one to the other
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Page:
    """One page of the browser."""

    def __init__(self, address: str) -> None:
        request = urllib.request.Request(f"{address}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request, timeout=30) as answer:
            target = json.loads(answer.read())
        self._socket = websocket.create_connection(
            target["webSocketDebuggerUrl"], timeout=PATIENCE, suppress_origin=True
        )
        self._number = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol; its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])

    def run(self, script: str) -> Any:
        """What a line of JavaScript gives."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def open(self, url: str, height: int) -> None:
        self.resize(height)
        self.call("Page.navigate", url=url)

    def resize(self, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=WIDTH, height=height, deviceScaleFactor=1, mobile=False)
        time.sleep(2)

    def press(self, label: str) -> None:
        """Press the button with this label, if there is one."""
        self.run(f"document.querySelector('button[aria-label=\"{label}\"]')?.click()")
        time.sleep(2)

    def wait(self, script: str, what: str) -> None:
        """Wait until a line of JavaScript is true."""
        until = time.monotonic() + PATIENCE
        while not self.run(script):
            if time.monotonic() > until:
                raise SystemExit(f"{what} did not appear; the page says: {self.run(_WORDS)[:500]!r}")
            time.sleep(0.5)
        time.sleep(2)  # what moves into place

    def picture(self, file: Path, top: float, height: float) -> None:
        """Save a strip of the page, in its own pixels."""
        clip = {"x": 0, "y": top, "width": WIDTH, "height": height, "scale": 1}
        taken = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(taken["data"]))


@contextlib.contextmanager
def browser() -> Iterator[Page]:
    """Chromium without a window, and a page of it."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise SystemExit("no Chromium here; install it (Debian: apt install chromium)")
    with tempfile.TemporaryDirectory() as profile:
        command = [found, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        command += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port_file, until = Path(profile) / "DevToolsActivePort", time.monotonic() + PATIENCE
            while not (port_file.is_file() and port_file.read_text().strip()):
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit("Chromium did not start")
                time.sleep(0.2)
            yield Page(f"http://127.0.0.1:{port_file.read_text().split()[0]}")
        finally:
            process.terminate()
            process.wait(timeout=30)


@contextlib.contextmanager
def mlflow_page(output_dir: Path) -> Iterator[str]:
    """`nvembed ui`; its address, once it answers."""
    command = [sys.executable, "-m", "nvembed.cli", "ui", "--output-dir", str(output_dir)]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    try:
        assert process.stdout is not None
        address, until = process.stdout.readline().split()[2], time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
                break
            if time.monotonic() > until:
                raise SystemExit("MLflow did not start")
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=60)


def pipeline_runs(address: str, count: int) -> tuple[str, list[str]]:
    """The experiment and the ids of its newest finished pipeline runs, oldest first."""

    def ask(path: str, **body: Any) -> dict[str, Any]:
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"{address}/api/2.0/mlflow/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return dict(json.loads(answer.read()))

    (experiment,) = (
        one["experiment_id"]
        for one in ask("experiments/search", max_results=100)["experiments"]
        if one["name"] == "nvembed"
    )
    found = ask(
        "runs/search",
        experiment_ids=[experiment],
        filter="attributes.status = 'FINISHED'",
        max_results=1000,
        order_by=["attributes.start_time DESC"],
    ).get("runs", [])
    tags = [(run["info"]["run_id"], {tag["key"] for tag in run["data"].get("tags", [])}) for run in found]
    parents = [run for run, own in tags if "nvembed.recipe" in own and "nvembed.task" not in own]
    if len(parents) < 2:
        raise SystemExit(f"{len(parents)} finished pipeline runs there; two or more are needed")
    return experiment, parents[:count][::-1]


def main() -> None:
    """Take both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("nvembed-out"))
    parser.add_argument("--pictures", type=Path, default=ROOT / "docs" / "pictures")
    parser.add_argument("--runs", type=int, default=4, help="the newest so many (4)")
    given = parser.parse_args()
    with mlflow_page(given.output_dir) as address, browser() as page:
        experiment, runs = pipeline_runs(address, given.runs)
        query = urllib.parse.urlencode(
            {"runs": json.dumps(runs), "experiments": json.dumps([experiment]), "workflowType": "machine_learning"}
        )
        page.open(f"{address}/#/compare-runs?{query}", height=1000)
        page.wait("!!document.querySelector('.js-plotly-plot .parcoords, .js-plotly-plot svg')", "the plot")
        page.press("Close")  # the assistant that MLflow opens beside
        page.picture(given.pictures / "mlflow-parallel-coordinates.png", 0, 650)
        for table in ("Parameters", "Metrics"):
            page.press(f"{table} - Show diff only")
        page.wait("document.body.innerText.includes('challenger/gain')", "the metrics")
        page.resize(3000)
        places = [page.run(f"{_FOUND.format(word=word)}?.getBoundingClientRect().top") for word in _SECTIONS]
        if None in places:
            raise SystemExit(f"no sections {_SECTIONS} on MLflow's page; it says {page.run(_WORDS)[-800:]!r}")
        top, bottom = places
        page.picture(given.pictures / "mlflow-compare.png", top - 16, bottom - top)


if __name__ == "__main__":
    main()
