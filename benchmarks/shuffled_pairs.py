"""A model made worse on purpose, taken the whole way to the registry: is it refused, and does it say why?

    nvembed run --recipe laptop
    python benchmarks/shuffled_pairs.py nvembed-out --out benchmarks/results/shuffled_pairs.json

Takes a finished run's mined training data, gives every query the positive of another one of its task type, and trains
both stages on that with the run's own sections. The model is measured on the run's own held-out sets, compared with the
present champion (or, without one, the untrained backbone) and registered, by the very functions that the pipeline's
tasks call. Prints the verdict, what became of the version, and who is champion before and after. About as long as the
run's two stages.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import describe, heading

from nvembed import steps
from nvembed.core.artifacts import link_tree, read_manifest, write_manifest
from nvembed.data import Example, read_examples, write_examples
from nvembed.data.store import read_corpus


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path, help="where `nvembed run` wrote")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    arguments = parser.parse_args()
    root = arguments.output_dir.resolve()
    run = finished_run(root)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{root}/mlflow.db"
    os.environ["NVEMBED_STATE"] = str(root / "state")
    os.environ["NVEMBED_RUN_ID"] = f"shuffled-{uuid.uuid4().hex[:12]}"
    print(heading())
    name = json.loads(run["resolve_recipe"]["registration"])["name"]
    before = champion(name)
    with tempfile.TemporaryDirectory() as scratch:
        outcome, verdict = whole_way(run, Path(scratch))
        del outcome["folder"]  # a place on this machine
    found = {"before": before, "registered": outcome, "verdict": verdict, "champion": champion(name)}
    print(f"\nverdict    {'passed' if verdict['passed'] else 'not passed'}: {verdict['paragraph']}")
    print(f"version    {outcome['version']} of {name}, aliases: {', '.join(outcome['aliases']) or 'none'}")
    print(f"promoted   {outcome['promoted']}: {outcome['reason']}")
    print(f"champion   before: {before}, after: {found['champion']}")
    if arguments.out:
        arguments.out.write_text(json.dumps({"machine": describe(), **found}, indent=2, ensure_ascii=False) + "\n")


def finished_run(root: Path) -> dict[str, dict[str, Any]]:
    """The outputs of the newest run that succeeded, by task."""
    for file in sorted((root / "logs").glob("*.result.json"), reverse=True):
        result = json.loads(file.read_text(encoding="utf-8"))
        if result["succeeded"]:
            outputs: dict[str, dict[str, Any]] = result["outputs"]
            return outputs
    raise SystemExit(f"{root}: no finished run; `nvembed run --recipe laptop` makes one")


def whole_way(run: dict[str, dict[str, Any]], scratch: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Shuffle, train twice, measure, compare, register; what became of it, and the verdict."""
    sections = run["resolve_recipe"]
    shuffled = shuffle(Path(run["mine_hard_negatives"]["mined"]), scratch / "shuffled")
    eval_sets = run["prepare_data"]["eval_sets"]
    common = {"model": sections["model"], "resources": sections["resources"], "eval_sets": eval_sets}
    adapters = {name: str(scratch / name) for name in ("stage1", "stage2")}
    steps.train("stage1", sections["stage1"], dataset=str(shuffled), adapter=adapters["stage1"], **common)
    steps.train(
        "stage2",
        sections["stage2"],
        dataset=str(shuffled),
        adapter=adapters["stage2"],
        init=adapters["stage1"],
        **common,
    )
    results = str(scratch / "results")
    evaluation, registration = sections["evaluation"], sections["registration"]
    steps.evaluate("stage2", evaluation, adapters=adapters, results=results, **common)
    measured = [run["evaluate_base"]["results"], results]
    made = {"prepare_data": run["prepare_data"]["dataset"], "train_stage2": adapters["stage2"]}
    comparison = str(scratch / "comparison")
    steps.compare_models(evaluation, registration, sections["resources"], eval_sets, measured, made, comparison)
    registered = scratch / "registered.json"
    steps.register_model(
        registration, sections["model"], adapters["stage2"], comparison, measured, made, str(registered)
    )
    verdict = json.loads(Path(comparison, "comparison.json").read_text(encoding="utf-8"))["verdict"]
    return json.loads(registered.read_text(encoding="utf-8")), verdict


def shuffle(mined: Path, out: Path) -> Path:
    """The dataset with every positive moved to another example of its task type; nothing else is changed."""
    examples = read_examples(mined)
    by_type: dict[str, list[int]] = {}
    for row, example in enumerate(examples):
        by_type.setdefault(example.task_type, []).append(row)
    moved: list[Example] = list(examples)
    for rows in by_type.values():
        drawn = random.Random(17).sample(rows, len(rows))
        for row, other in zip(drawn, drawn[1:] + drawn[:1], strict=True):
            moved[row] = replace(examples[row], positive=examples[other].positive)
    out.mkdir(parents=True)
    write_examples(out, moved)
    link_tree(mined / "corpus", out / "corpus")
    source = read_manifest(mined)
    write_manifest(out, kind="mined", section={"shuffled": True}, counts=source.counts, licenses=source.licenses)
    assert read_corpus(out)
    return out


def champion(name: str) -> str | None:
    """The champion's version, if there is one."""
    from nvembed.registry import list_versions

    return next((version.version for version in list_versions(name) if "champion" in version.aliases), None)


if __name__ == "__main__":
    main()
