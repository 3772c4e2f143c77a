"""`nvembed doctor`: will it run here?"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict

import click

from nvembed.cli.app import Failure
from nvembed.cli.doctor import Finding, local_findings

_MARKS = {"ok": ("ok", "green"), "warning": ("look", "yellow"), "wrong": ("WRONG", "red"), "absent": ("-", None)}


@click.command()
@click.option("--store", metavar="URL", help="Try an object store: s3://bucket/folder, gs://… (a probe file, removed).")
@click.option("--json", "as_json", is_flag=True, help="Findings as JSON lines.")
def doctor(store: str | None, as_json: bool) -> None:
    """Check versions, GPUs, disk, tracking and stores.

    Exits with 1 if something is wrong, 0 otherwise; what need not be there is no fault.
    """
    _tell(local_findings(store), as_json)


def _tell(findings: Iterable[Finding], as_json: bool) -> None:
    wrong = []
    for finding in findings:
        if finding.state == "wrong":
            wrong.append(finding.check)
        click.echo(json.dumps(asdict(finding), ensure_ascii=False) if as_json else _line(finding))
    if wrong:
        raise Failure(f"{len(wrong)} wrong: {', '.join(wrong)}")


def _line(finding: Finding) -> str:
    mark, colour = _MARKS[finding.state]
    mend = f"\n{'':22}{finding.mend}" if finding.mend else ""
    return f"{click.style(f'{mark:<6}', fg=colour)} {finding.check:<14} {finding.says}{mend}"
