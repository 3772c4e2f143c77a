"""`nvembed doctor`: will it run here?"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import asdict

import click

from nvembed.cli.app import Failure
from nvembed.cli.doctor import local_findings
from nvembed.core.errors import UserError
from nvembed.core.findings import Finding

_MARKS = {"ok": ("ok", "green"), "warning": ("look", "yellow"), "wrong": ("WRONG", "red"), "absent": ("-", None)}


@click.command()
@click.option("--store", metavar="URL", help="Try an object store: s3://bucket/folder, gs://… (a probe file, removed).")
@click.option("--cluster", "with_cluster", is_flag=True, help="A cluster too: versions, rights, claims, GPUs.")
@click.option("--endpoint", help="With --cluster: Kubeflow Pipelines' address; default: KFP_ENDPOINT.")
@click.option("--namespace", help="With --cluster: where pipelines run; default: the pod's own, or NVEMBED_NAMESPACE.")
@click.option("--json", "as_json", is_flag=True, help="Findings as JSON lines.")
def doctor(store: str | None, with_cluster: bool, endpoint: str | None, namespace: str | None, as_json: bool) -> None:
    """Check versions, GPUs, disk, tracking and stores; with --cluster what runs there, against the support table.

    Exits with 1 if something is wrong, 0 otherwise; what need not be there is no fault.
    """
    if (endpoint or namespace) and not with_cluster:
        raise UserError("--endpoint, --namespace: say where a cluster is looked at; give --cluster too")
    findings = local_findings(store)
    if with_cluster:
        from nvembed.cluster.health import cluster_findings

        findings = itertools.chain(findings, cluster_findings(endpoint, namespace))
    _tell(findings, as_json)


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
