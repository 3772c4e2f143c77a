"""`nvembed clean`: what old runs left and nothing needs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from nvembed.cli.clean import Removal, removals
from nvembed.cli.options import output_dir_option
from nvembed.core.errors import UserError
from nvembed.core.state import hold

_GB = 1e9


@click.command()
@output_dir_option
@click.option("--keep", type=click.IntRange(min=1), default=5, show_default=True, help="Newest runs that stay whole.")
@click.option("--older-than", "days", type=click.FloatRange(min=0), help="Days unused after which state goes.")
@click.option(
    "--models/--no-models", default=True, show_default=True, help="Also versions without alias, deleted runs."
)
@click.option("--dry-run", is_flag=True, help="Say what would go; remove nothing.")
def clean(output_dir: Path, keep: int, days: float | None, models: bool, dry_run: bool) -> None:
    """Remove what the newest runs do not need.

    Old run folders, cache entries and checkpoints; of each model, versions without alias beyond the newest; MLflow
    runs that were deleted before. Never a champion or its predecessor, nor answers of language models.
    """
    output_dir = output_dir.expanduser().resolve()
    state = Path(os.environ.get("NVEMBED_STATE") or output_dir / "state").resolve()
    if not output_dir.is_dir() and not state.is_dir():
        raise UserError(f"--output-dir {output_dir}: there is no such folder; name one that `nvembed run` wrote to")
    try:
        if output_dir.is_dir():
            with hold(output_dir, timeout=3):
                _clean_files(removals(output_dir, state, keep, days=days), dry_run)
        else:
            _clean_files(removals(output_dir, state, keep, days=days), dry_run)
    except TimeoutError:
        raise UserError(f"--output-dir {output_dir}: a run works here; wait for it, then clean") from None
    if models:
        _clean_models(output_dir, keep, dry_run)


def _clean_files(found: Sequence[Removal], dry_run: bool) -> None:
    counts: Counter[str] = Counter()
    freed = 0
    for removal in found:
        if dry_run:
            click.echo(f"would remove  {removal.what}  {removal.path}")
        elif not removal.carry_out():
            click.echo(f"in use, stays {removal.what}  {removal.path}")
            continue
        counts[removal.what] += 1
        freed += removal.size
    told = ", ".join(f"{count} × {what}" for what, count in counts.items()) or "nothing"
    click.echo(f"{'would remove' if dry_run else 'removed'} {told}: {freed / _GB:.2f} GB")


def _clean_models(output_dir: Path, keep: int, dry_run: bool) -> None:
    from nvembed import tracking
    from nvembed.cli.commands_tracking import use_store
    from nvembed.registry.cleaning import expendable, remove

    if tracking.tracking_uri() is None and not (output_dir / "mlflow.db").is_file():
        return
    use_store(output_dir)
    found = expendable(keep)
    if dry_run:
        for version in found.versions:
            click.echo(f"would remove  version {version.version} of {version.name}")
        if found.runs:
            click.echo(f"would remove  {len(found.runs)} deleted runs")
        return
    for line in remove(found):
        click.echo(line)
