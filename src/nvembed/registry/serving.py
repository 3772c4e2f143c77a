"""The served check: a version behind `mlflow models serve` must answer with the vectors it gives offline."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.registry.records import now
from nvembed.registry.versions import Version, fetch_model
from nvembed.tracking.client import client

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)
TOLERANCE = 1e-5  # float32 on the same processor; texts meet in other batches
CHECKED_TAG = "nvembed.served"
TEXTS = ("Open a file and return its contents.", "", "Größe, 大きさ, размер", "A longer text, to be cut. " * 40)
INSTRUCTION = "Given a question, retrieve passages that answer it"


@contextlib.contextmanager
def served(uri: str, *, patience: float = 300.0) -> Iterator[str]:
    """`mlflow models serve` for a model URI, in this environment; its address, once it answers.

    Raises RuntimeError, with the end of its log, if it does not come up within `patience` seconds.
    """
    port = _free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", uri, "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": client().tracking_uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    # it calls `uvicorn` by name, which lies beside this interpreter, whose environment may not be an active one
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            address, until = f"http://127.0.0.1:{port}", time.monotonic() + patience
            while not _is_up(address):
                if server.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    tail = log.read().decode(errors="replace")[-2000:]
                    raise RuntimeError(f"mlflow models serve of {uri} did not come up:\n{tail}")
                time.sleep(0.3)
            yield address
        finally:
            _end(server)


def ask(address: str, body: dict[str, Any]) -> Any:
    """What the server answers to a request, as JSON. Raises RuntimeError with its words if it refuses."""
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{address}/invocations", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"the served model refused ({error.code}): {error.read().decode()[:500]}") from error


def answers(address: str, texts: Sequence[str], instruction: str = "") -> dict[str, np.ndarray]:
    """The vectors of texts, float32 (n, dim), by each form of request: MLflow's own, OpenAI's, OpenAI's in base64."""
    import numpy as np

    params = {"instruction": instruction} if instruction else {}
    own = ask(address, {"inputs": list(texts), **({"params": params} if params else {})})
    found = {"mlflow": np.array(own["predictions"], dtype=np.float32)}
    for coded in ("float", "base64"):
        answer = ask(address, {"input": list(texts), "model": "nvembed", "encoding_format": coded, **params})
        assert [one["index"] for one in answer["data"]] == list(range(len(texts)))
        rows = [one["embedding"] for one in answer["data"]]
        rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows] if coded == "base64" else rows
        found[f"openai, {coded}"] = np.array(rows, dtype=np.float32)
    return found


def served_check(
    version: Version, *, uri: str | None = None, texts: Sequence[str] = TEXTS, instruction: str = INSTRUCTION
) -> dict[str, float]:
    """Serve a version and compare its answers with the vectors of its folder, with and without an instruction.

    Args:
        uri: what is served; default: the version. An alias (`models:/name@champion`) must give the same.

    Returns:
        Form of the request → largest difference of an entry. What was found stays on the version as a tag.
    """
    import numpy as np

    from nvembed.modeling import NVEmbedModel

    offline = NVEmbedModel.from_pretrained(fetch_model(version), device="cpu")
    expected = {"no instruction": offline.encode(texts), "instruction": offline.encode(texts, instruction=instruction)}
    differences = {}
    with served(uri or version.uri) as address:
        for name, vectors in expected.items():
            for form, got in answers(address, texts, instruction if name == "instruction" else "").items():
                right = got.shape == vectors.shape
                differences[f"{form}, {name}"] = float(np.abs(got - vectors).max()) if right else float("inf")
    worst = max(differences.values())
    told = f"{'equal' if worst <= TOLERANCE else 'different'}, largest difference {worst:.1e}, {now()}"
    client().set_model_version_tag(version.name, version.version, CHECKED_TAG, told)
    return differences


def _is_up(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/ping", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _end(server: subprocess.Popen[bytes]) -> None:
    """The server and what it started: asked first, killed after five seconds."""
    for request, grace in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, request)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(grace)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
