"""MLflow's server and the jobs around it, started here by the manifests' own commands, with their volumes elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

PROGRAMS = {
    "mlflow": [sys.executable, "-m", "mlflow"],
    "nvembed": [sys.executable, "-m", "nvembed.cli"],
    "python3": [sys.executable],
    "bash": ["bash"],
}
# Names end in the cluster's domain and lead here: what a cluster's DNS and Service do.
CLUSTER_DNS = """
import os, socket
_real = socket.getaddrinfo
def _asked(host, port, *rest, **more):
    if isinstance(host, str) and host.endswith(".svc.cluster.local"):
        return _real("127.0.0.1", int(os.environ["SERVICE_PORT"]), *rest, **more)
    return _real(host, port, *rest, **more)
socket.getaddrinfo = _asked
"""


@dataclass
class World:
    """What a cluster would add to a container: its volumes' places, the Secrets, the port that is free."""

    places: Mapping[str, Path | str]
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def command(self, box: Mapping[str, Any]) -> list[str]:
        program, *rest = box["command"]
        return [*PROGRAMS[program], *[self.put(word) for word in [*rest, *box.get("args", [])]]]

    def put(self, text: str) -> str:
        """In one pass, the longest first: a place that is put in may hold another's name."""
        names = sorted(self.places, key=len, reverse=True)
        if not names:
            return text
        return re.sub("|".join(map(re.escape, names)), lambda found: str(self.places[found[0]]), text)

    def environment(self, box: Mapping[str, Any]) -> dict[str, str]:
        """The container's variables alone, with what Python and Postgres need to be found here."""
        found = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        found["PATH"] = f"{Path(sys.executable).parent}:{postgres_programs() or ''}:/usr/bin:/bin"
        for source in box.get("envFrom", []):
            if "configMapRef" in source:
                found |= self.configs[source["configMapRef"]["name"]]
            elif (name := source["secretRef"]["name"]) in self.secrets or not source["secretRef"].get("optional"):
                found |= self.secrets[name]
        for one in box.get("env", []):
            if "value" in one:
                found[one["name"]] = self.put(one["value"])
            else:
                asked = one["valueFrom"]["secretKeyRef"]
                found[one["name"]] = self.secrets[asked["name"]][asked["key"]]
        return found

    def run(self, box: Mapping[str, Any], cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a container that ends."""
        return subprocess.run(
            self.command(box),
            cwd=cwd,
            env=self.environment(box),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


class Server:
    """The Deployment's container."""

    def __init__(self, box: Mapping[str, Any], world: World, folder: Path, port: int) -> None:
        self.box, self.world, self.folder, self.port = box, world, folder, port
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until the probe's path answers."""
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.world.command(self.box),
                cwd=self.folder,
                env=self.world.environment(self.box),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        path, deadline = self.box["startupProbe"]["httpGet"]["path"], time.monotonic() + 180
        while status(self.port, path, "10.1.2.3:5000") != 200:
            said = (self.folder / "server.log").read_text()[-3000:]
            assert self.process.poll() is None and time.monotonic() < deadline, said
            time.sleep(0.3)

    def kill(self) -> None:
        """As a node is lost: nothing is told, nothing is finished."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def status(port: int, path: str, host: str, headers: Mapping[str, str] | None = None) -> int:
    """What the server answers to somebody who calls it `host`; 0 for no answer."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host, **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def postgres_programs() -> Path | None:
    """The folder of Postgres' programs: Debian puts the server's outside PATH."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda one: int(one.parent.name))
    return folders[-1] if folders else None


@contextmanager
def postgres(password: str) -> Iterator[int]:
    """A Postgres server with an empty database `mlflow`, and a second one `restored`; its port."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("Postgres is not installed (Debian: apt-get install postgresql)")
    # It refuses to run as root, and its user must reach its folder.
    user = "postgres" if os.geteuid() == 0 else None
    folder, port = Path(tempfile.mkdtemp(prefix="nvembed-postgres-")), free_port()
    if user:
        shutil.chown(folder, user)
    (folder / "password").write_text(password)
    (folder / "password").chmod(0o644)

    def call(*command: str) -> None:
        done = subprocess.run(command, user=user, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    data = folder / "data"
    try:
        call(
            *(str(programs / "initdb"), "-D", str(data), "-U", "mlflow", "--encoding=UTF8"),
            *("--auth=scram-sha-256", f"--pwfile={folder / 'password'}"),
        )
        call(str(programs / "pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
        for database in ("mlflow", "restored"):
            address = f"postgresql://mlflow:{quote(password)}@127.0.0.1:{port}/postgres"
            call(str(programs / "psql"), "--quiet", address, "--command", f"CREATE DATABASE {database}")
        yield port
    finally:
        subprocess.run(
            [str(programs / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop"],
            user=user,
            cwd=folder,
            capture_output=True,
            check=False,
        )
        shutil.rmtree(folder, ignore_errors=True)
