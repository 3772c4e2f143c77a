"""Where runs are kept, and whether that place can be reached."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from nvembed.core.errors import UserError

if TYPE_CHECKING:
    import requests

URI = "MLFLOW_TRACKING_URI"
_SQLITE = "sqlite:///"
_DATABASES = ("postgresql", "mysql", "mssql")
_USER_INFO = re.compile(r"://[^/\s]*@")


def tracking_uri() -> str | None:
    """`MLFLOW_TRACKING_URI`, or None: then nothing is tracked."""
    return os.environ.get(URI) or None


def pipeline_run_id() -> str | None:
    """Identity of the pipeline run this process works for: `NVEMBED_RUN_ID`, else `KFP_RUN_ID`, else None.

    It comes by environment, never as a parameter: a parameter that changes with each run would defeat the cache.
    """
    return os.environ.get("NVEMBED_RUN_ID") or os.environ.get("KFP_RUN_ID") or None


def default_uri(output_dir: Path | str) -> str:
    """`MLFLOW_TRACKING_URI` if it is set, else a SQLite store `mlflow.db` in `output_dir`."""
    return tracking_uri() or f"{_SQLITE}{Path(output_dir).resolve() / 'mlflow.db'}"


def shown(text: str) -> str:
    """A text as it may be printed: of an address in it, user name and password become `***`."""
    return _USER_INFO.sub("://***@", text)


def sqlite_file(uri: str) -> Path | None:
    """The database file of a SQLite URI, None for any other."""
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]).absolute() if uri.startswith(_SQLITE) else None


def artifact_location(uri: str) -> str | None:
    """Where a SQLite store's artifacts lie: `mlartifacts` beside the database. None: the server decides."""
    file = sqlite_file(uri)
    return (file.parent / "mlartifacts").as_uri() if file else None


def check_server(uri: str, timeout: float = 5) -> None:
    """Make sure, within `timeout` seconds, that runs can be kept at `uri`.

    Raises:
        UserError: unreachable, not an MLflow server, credentials refused, folder not writable, unknown kind of address.
    """
    scheme = urlsplit(uri).scheme
    if (file := sqlite_file(uri)) is not None:
        _check_sqlite(uri, file)
    elif scheme in ("http", "https"):
        _within(timeout, uri, lambda: _check_http(uri.rstrip("/"), timeout))
    elif scheme.partition("+")[0] in _DATABASES:
        _within(timeout, uri, lambda: _check_database(uri))
    else:
        raise UserError(f"{URI}={shown(uri)}: give http://, https://, {_SQLITE}<file> or a database's address")


def _check_sqlite(uri: str, file: Path) -> None:
    folder = file.parent
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
        if file.exists():
            with file.open("r+b") as stream:
                head = stream.read(16)
            if head and not head.startswith(b"SQLite format 3"):
                raise UserError(f"{URI}={shown(uri)}: {file} is no SQLite database; name another file or move it away")
    except OSError as error:
        raise UserError(
            f"{URI}={shown(uri)}: cannot write in {folder} ({error.strerror}); name a writable folder"
        ) from error


def _check_http(uri: str, timeout: float) -> None:
    import requests

    each = min(3.0, timeout)
    try:
        health = requests.get(f"{uri}/health", timeout=each)
        answer = requests.get(
            f"{uri}/api/2.0/mlflow/experiments/search", params={"max_results": 1}, timeout=each, **_credentials()
        )
    except requests.exceptions.RequestException as error:
        raise UserError(
            f"{URI}={shown(uri)}: cannot be reached ({_reason(error)}); start the server or mend the address"
        ) from error
    _check_answers(uri, health, answer)


def _check_answers(uri: str, health: requests.Response, answer: requests.Response) -> None:
    if answer.status_code == 401:
        raise UserError(
            f"{URI}={shown(uri)}: credentials refused (401); set MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN"
        )
    if answer.status_code == 403:
        raise UserError(
            f"{URI}={shown(uri)}: access refused (403); let its --allowed-hosts name this host, or ask for the right"
        )
    try:
        known = health.ok and answer.ok and isinstance(answer.json(), dict)
    except ValueError:
        known = False
    if not known:
        status = f"/health {health.status_code}, its API {answer.status_code}"
        raise UserError(
            f"{URI}={shown(uri)}: does not answer as an MLflow server ({status}); mend the address or the server"
        )


def _credentials() -> dict[str, object]:
    """Arguments for `requests` from the variables that MLflow's own client reads."""
    arguments: dict[str, object] = {}
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        arguments["headers"] = {"Authorization": f"Bearer {token}"}
    elif user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        arguments["auth"] = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", ""))
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("1", "true"):
        arguments["verify"] = False
    elif bundle := os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"):
        arguments["verify"] = bundle
    return arguments


def _reason(error: Exception) -> str:
    """The innermost cause in few words; `requests` wraps it four deep."""
    import requests

    if isinstance(error, requests.exceptions.Timeout):
        return "no answer in time"
    inner = getattr(error.args[0], "reason", error) if error.args else error
    return str(inner).rpartition(": ")[2] or type(error).__name__


def _check_database(uri: str) -> None:
    import sqlalchemy

    try:
        sqlalchemy.create_engine(uri).connect().close()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        # the message of a driver may repeat the password: name the kind of failure alone
        raise UserError(f"{URI}: the database cannot be reached ({type(error).__name__}); mend its address") from error


def _within(timeout: float, uri: str, check: object) -> None:
    """Run `check` in a thread and wait `timeout`: a name server or a dripping peer respects no socket timeout."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            check()  # type: ignore[operator]
        except BaseException as error:  # noqa: BLE001 - handed to the caller below
            failures.append(error)

    thread = threading.Thread(target=work, name="nvembed-check-server", daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        raise UserError(f"{URI}={shown(uri)}: no answer within {timeout:g} s; start the server or mend the address")
    if failures:
        raise failures[0]
