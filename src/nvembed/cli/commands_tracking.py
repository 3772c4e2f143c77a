"""`nvembed ui`, `nvembed compare`, `nvembed registry` and `nvembed track`: what MLflow holds, or should."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nvembed.cli.app import Failure
from nvembed.cli.options import output_dir_option
from nvembed.cli.processes import end_tree, terminate_as_interrupt
from nvembed.core.errors import UserError

if TYPE_CHECKING:
    from nvembed.registry import Record

_SQLITE = "sqlite:///"
_WHY = "Kept with the version, beside who and when."
_RUNS_VIEW = "workflowType=machine_learning"  # without it MLflow opens on its views for chat applications


@click.command()
@output_dir_option
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def ui(output_dir: Path, port: int) -> None:
    """Open MLflow on the local store, for this machine alone."""
    from nvembed import tracking

    uri = _store(output_dir)
    if not uri.startswith(_SQLITE):
        click.echo(f"MLflow runs at {tracking.shown(uri)}")
        return
    experiment, free = _experiment(uri), _free_port(port)
    artifacts = Path(uri.removeprefix(_SQLITE)).parent / "mlartifacts"
    address = f"http://127.0.0.1:{free}"
    click.echo(f"MLflow at {address} (Ctrl-C ends it)")
    click.echo(f"runs      {address}/#/experiments/{experiment}/runs?{_RUNS_VIEW}")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    command += ["--port", str(free), "--workers", "1", "--default-artifact-root", artifacts.as_uri()]
    # without the job runner's dozen processes, which only hosted evaluations need
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with terminate_as_interrupt():
        server = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            code = server.wait()
        except KeyboardInterrupt:
            return
        finally:
            end_tree(server)
    raise Failure(f"MLflow ended by itself with exit code {code}")


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@output_dir_option
def compare(first: str, second: str, output_dir: Path) -> None:
    """Two runs' headline numbers side by side, and what their recipes do differently: MLflow's compare page in text.

    A and B are names or ids (a part that is clear will do) of pipeline runs in MLflow, or `latest`, `latest~1`, ….
    """
    from nvembed.tracking.headlines import VERDICT

    use_store(output_dir)
    runs = _pipeline_runs()
    one, two = _pick(runs, first), _pick(runs, second)
    rows = [("", _title(one), _title(two), "difference")]
    for name in sorted(set(one.data.metrics) | set(two.data.metrics)):
        a, b = one.data.metrics.get(name), two.data.metrics.get(name)
        rows.append((name, _number(a), _number(b), f"{b - a:+.4f}" if a is not None and b is not None else ""))
    print_table(rows)
    verdicts = [(_title(run), run.data.tags[VERDICT]) for run in (one, two) if VERDICT in run.data.tags]
    if verdicts:
        click.echo("\nverdict:")
        print_table(verdicts)
    changed = _changes(one.data.params, two.data.params)
    if changed:
        click.echo("\nrecipe:")
        print_table(changed)


@click.group()
def track() -> None:
    """Metrics on their way to MLflow."""


@track.command()
@output_dir_option
def sync(output_dir: Path) -> None:
    """Send MLflow what it could not take while tasks ran. Again sends nothing twice.

    It reads the spools in NVEMBED_STATE, or in the output folder's state.
    """
    from nvembed import tracking

    use_store(output_dir)
    found = False
    for sent in tracking.send_spools():
        found = True
        what = "still runs, and sends its own" if sent.held else f"{sent.metrics} metrics sent, its run is closed"
        click.echo(f"{sent.run_id}  {sent.task}: {what}")
    if not found:
        click.echo("nothing is left to be sent")


@click.group()
def registry() -> None:
    """Registered models."""


@registry.command("list")
@click.argument("name", required=False)
@output_dir_option
def list_(name: str | None, output_dir: Path) -> None:
    """Every version, newest first, with its aliases and the last decision on it, and what waits for a promoter.

    Of NAME every decision, and why.
    """
    from nvembed.registry import list_versions, read_records
    from nvembed.registry.waiting import due, objection, promoters_command

    use_store(output_dir)
    with _registry_errors():
        versions = list_versions(name)
        waiting = [(one, promoters_command(one, due(one)), objection(one)) for one in versions if due(one)]
    if not versions:
        click.echo("no model is registered yet; `nvembed run` registers one")
        return
    rows = [("name", "version", "aliases", "created", "run", "decision")]
    for one in versions:
        last = "".join(_decision(each) for each in read_records(one)[-1:])
        aliases = ", ".join([*one.aliases, *(f"{alias} is due" for alias in [due(one)] if alias)])
        rows.append((one.name, one.version, aliases, one.created, one.run, last))
    print_table(rows)
    for one, command, but in waiting:
        click.echo(f"\n{one.name} version {one.version} waits for a promoter: {command}")
        if but:
            click.echo(f"  its verdict no longer holds: {but}")
    for one in versions if name else ():
        for each in read_records(one):
            click.echo(f"\nversion {one.version} {_decision(each)}, {each.when}\n  {each.why}")


@registry.command()
@click.argument("name")
@click.argument("version", required=False)
@output_dir_option
def check(name: str, version: str | None, output_dir: Path) -> None:
    """Serve VERSION of NAME (the champion) by `mlflow models serve`, and compare its answers with its own vectors."""
    from nvembed.registry.serving import TOLERANCE, served_check
    from nvembed.registry.versions import CHAMPION, aliased, named

    use_store(output_dir)
    with _registry_errors():
        chosen = named(name, version) if version else aliased(name, CHAMPION)
        if chosen is None:
            raise UserError(f"model {name!r} has no champion; name a version, see `nvembed registry list`")
        found = served_check(chosen)
    print_table([("request", "largest difference"), *((form, f"{worst:.1e}") for form, worst in found.items())])
    if max(found.values()) > TOLERANCE:
        raise Failure(f"{name} version {chosen.version} does not serve its own vectors")


def _decision(record: Record) -> str:
    rival = f"version {record.against}" if record.against.isdigit() else record.against
    return f"{record.what}{f' against {rival}' if rival else ''} by {record.who}"


@registry.command()
@click.argument("name")
@click.argument("version")
@click.option("--why", default="", help=f"{_WHY} Without it a version that waits for a promoter goes by its verdict.")
@click.option("--challenger", is_flag=True, help="Make it challenger instead.")
@output_dir_option
def promote(name: str, version: str, why: str, challenger: bool, output_dir: Path) -> None:
    """Make VERSION of NAME champion, whatever the gate said."""
    from nvembed.registry.promotion import make_challenger
    from nvembed.registry.promotion import promote as make_champion
    from nvembed.steps.locks import registry_lock

    if challenger and why:
        raise UserError("--why: a challenger needs no reason; leave out --why or --challenger")
    use_store(output_dir)
    with _registry_errors():
        if challenger:
            chosen = make_challenger(name, version, lock=registry_lock)
        else:
            chosen = make_champion(name, version, why, lock=registry_lock)
    click.echo(f"{chosen.name} version {chosen.version} is {'challenger' if challenger else 'champion'}")


@registry.command()
@click.argument("name")
@click.option("--why", default="rolled back by hand", show_default=True, help=_WHY)
@output_dir_option
def rollback(name: str, why: str, output_dir: Path) -> None:
    """Make the champion before this one champion again."""
    from nvembed.registry import rollback as take_back
    from nvembed.steps.locks import registry_lock

    use_store(output_dir)
    with _registry_errors():
        chosen = take_back(name, why, lock=registry_lock)
    click.echo(f"{chosen.name} version {chosen.version} is champion again")


def _registry_errors() -> AbstractContextManager[None]:
    from nvembed.tracking.client import plain_errors

    return plain_errors()


def _store(output_dir: Path) -> str:
    """MLflow's address; a local store must be there already. Raises UserError."""
    from nvembed import tracking

    uri = tracking.default_uri(output_dir.expanduser().resolve())
    if uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE)).is_file():
        raise UserError(f"--output-dir {output_dir}: no MLflow store there; run `nvembed run` first or name its folder")
    tracking.check_server(uri, timeout=5)
    return uri


def _experiment(uri: str) -> str:
    from nvembed.tracking.client import client, experiment_id

    os.environ["MLFLOW_TRACKING_URI"] = uri
    return experiment_id(client())


def use_store(output_dir: Path) -> None:
    """Let this process speak with MLflow at its address, or with the output folder's own store. Raises UserError."""
    os.environ["MLFLOW_TRACKING_URI"] = _store(output_dir)
    os.environ.setdefault("NVEMBED_STATE", str(output_dir.expanduser().resolve() / "state"))


def _pipeline_runs() -> list[Any]:
    from nvembed.tracking.client import PARENT_TAG, RUN_TAG, TASK_TAG, client, experiment_id

    mlflow = client()
    runs = mlflow.search_runs([experiment_id(mlflow)], max_results=1000, order_by=["attributes.start_time DESC"])
    tags = [(run, run.data.tags) for run in runs]
    # A stage that was run by itself is a task without a parent.
    return [run for run, own in tags if RUN_TAG in own and TASK_TAG not in own and PARENT_TAG not in own]


def _pick(runs: list[Any], wanted: str) -> Any:
    if wanted == "latest" or wanted.startswith("latest~"):
        back = wanted.removeprefix("latest").removeprefix("~") or "0"
        if back.isdigit() and int(back) < len(runs):
            return runs[int(back)]
        raise UserError(f"run {wanted}: MLflow holds {len(runs)} pipeline runs")
    exact = [run for run in runs if wanted in (run.info.run_id, run.info.run_name)]
    found = exact or [run for run in runs if run.info.run_id.startswith(wanted) or wanted in (run.info.run_name or "")]
    if len(found) == 1:
        return found[0]
    known = ", ".join(_title(run) for run in (found or runs)[:5]) or "none"
    raise UserError(f"run {wanted!r}: {'several match' if found else 'no such pipeline run'}; there are {known}")


def _title(run: Any) -> str:
    return str(run.info.run_name or run.info.run_id[:8])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _changes(one: Mapping[str, str], two: Mapping[str, str]) -> list[tuple[str, ...]]:
    names = sorted(set(one) | set(two))
    return [(name, one.get(name, "–"), two.get(name, "–")) for name in names if one.get(name) != two.get(name)]


def print_table(rows: Iterable[tuple[str, ...]]) -> None:
    """Columns side by side."""
    rows = list(rows)
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _free_port(wanted: int) -> int:
    """The wanted port, or one that is free: port 5000 is often taken."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise UserError(f"--port {wanted}: no free port on this machine")
