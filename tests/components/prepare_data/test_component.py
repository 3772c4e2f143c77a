"""prepare_data, run by KFP's local runner."""

from __future__ import annotations

from pathlib import Path

from kfp import dsl
from pipeline_harness import run_component

from components.prepare_data.component import prepare_data
from nvembed.core.artifacts import read_manifest
from nvembed.data import read_examples
from nvembed.recipe import Synthesis
from nvembed.synthesis import synthesize


def one_shard(folder: Path) -> dict[str, tuple[type[dsl.Artifact], list[Path]]]:
    """What is no mix has one shard with nothing in it."""
    shard = folder / "shard"
    shard.mkdir(exist_ok=True)
    return {"shards": (dsl.Dataset, [shard])}


def nothing_synthetic(folder: Path) -> dict[str, tuple[type[dsl.Artifact], Path]]:
    """What `synthesize_data` writes where synthesis is off."""
    names = ("synthetic", "synthetic_eval_sets")
    synthesize(Synthesis(), *(folder / name for name in names))
    return {name: (dsl.Dataset, folder / name) for name in names}


def test_writes_examples_held_out_sets_and_a_report(tmp_path: Path, sections: dict[str, str]) -> None:
    given = {"artifacts": nothing_synthetic(tmp_path), "lists": one_shard(tmp_path)}
    folder = run_component(prepare_data, tmp_path, **given, data=sections["data"])

    manifest = read_manifest(folder / "dataset", kind="dataset", verify=True)
    assert manifest.licenses
    assert {example.task_type for example in read_examples(folder / "dataset")} >= {"retrieval"}
    assert read_manifest(folder / "eval_sets", kind="eval", verify=True).counts
    assert "<html" in (folder / "report").read_text(encoding="utf-8")


def test_the_same_section_gives_the_same_bytes(tmp_path: Path, sections: dict[str, str]) -> None:
    given = {"artifacts": nothing_synthetic(tmp_path), "lists": one_shard(tmp_path)}
    first, second = (
        run_component(prepare_data, tmp_path / name, **given, data=sections["data"]) for name in ("a", "b")
    )

    for output in ("dataset", "eval_sets"):
        assert read_manifest(first / output).content == read_manifest(second / output).content
