"""What a finished run leaves the person with: the table, the model, where MLflow is, what to do next."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from nvembed.cli.local_runner import Result


def show_summary(result: Result, output_dir: Path, tracking_uri: str) -> None:
    """Print it to standard output."""
    from nvembed import tracking

    table = _file(result, "compare_models", "comparison", "table.md")
    if table is not None:
        click.echo(f"\n{table.read_text(encoding='utf-8').strip()}\n")
        click.echo(f"report       {table.parent / 'report.html'}")
    model = registered_model(result)
    if model:
        aliases = ", ".join(model.get("aliases") or []) or "no alias"
        click.echo(f"model        {model.get('name')} version {model.get('version')} ({aliases})")
        if model.get("due"):
            click.echo(f"due          {model['due']}, by a promoter: {model['promote']}")
        if model.get("folder"):
            click.echo(f"folder       {model['folder']}")
    click.echo(f"MLflow       {tracking.shown(tracking_uri)}")
    folder = "" if str(output_dir) == "nvembed-out" else f" --output-dir {output_dir}"
    click.echo("\nnext:")
    click.echo(f"  your own data   nvembed run --recipe laptop --set data.path=my.jsonl{folder}")
    click.echo(f"  open MLflow     nvembed ui{folder}")
    click.echo("  on a cluster    nvembed submit --recipe laptop --endpoint https://your-kubeflow --image your/image")


def registered_model(result: Result) -> Mapping[str, Any]:
    """Name, version, aliases and folder as `register_model` left them; empty if nothing was registered."""
    for label, outputs in result.outputs.items():
        if label.startswith("register_model"):
            for value in outputs.values():
                if outcome := _outcome(value):
                    return outcome
    return {}


def _outcome(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            file = Path(value)
            value = json.loads(file.read_text(encoding="utf-8") if file.is_file() else value)
        except (OSError, ValueError):
            return {}
    return value if isinstance(value, Mapping) and "version" in value else {}


def _file(result: Result, task: str, output: str, name: str) -> Path | None:
    folder = result.outputs.get(task, {}).get(output)
    file = Path(str(folder)) / name if folder else None
    return file if file is not None and file.is_file() else None
