"""A mix prepared: its shards made or taken as they are, merged, with lineage, dev set and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.artifacts import output_folder, read_manifest, write_manifest
from nvembed.core.digests import digest_json
from nvembed.core.errors import UserError
from nvembed.core.progress import note, track
from nvembed.data.adapters.mix import left_out
from nvembed.data.merging import Merged, gather, merge
from nvembed.data.mix_report import write_mix_report
from nvembed.data.shards import decontaminator, plan_shards, prepare_shard
from nvembed.data.source import check_digest
from nvembed.data.stages import write_stages
from nvembed.recipe import what_falls_out

if TYPE_CHECKING:
    from nvembed.recipe import Data


def prepare_mix(
    data: Data, dataset_out: Path, eval_out: Path, *, shards: int = 1, prepared: Sequence[Path] = ()
) -> None:
    """`nvembed.data.prepare` for a mix."""
    _say_what_is_left_out(data)
    places, checked = _taken(prepared) if prepared else _made(data, shards)
    gathered = gather(data, places)
    digests = {blocks.name: str(blocks.about["digest"]) for blocks in gathered}
    check_digest(data, digest_json(digests))
    with output_folder(dataset_out) as dataset, output_folder(eval_out) as eval_sets:
        merged = merge(data, gathered, dataset)
        write_stages(dataset, {blocks.name: data.sources[blocks.name].stages for blocks in gathered})
        if merged.dev is not None:
            sizes = merged.dev.write(eval_sets / "dev" / "retrieval", data.instructions["retrieval"])
            merged.counts.update({f"dev_retrieval_{name}": number for name, number in sizes.items()})
        about = _about(data, merged, checked)
        write_mix_report(dataset, data, merged, about)
        _write_manifests(data, merged, about, digests, dataset, eval_sets)
    _say(merged, about)


def _made(data: Data, shards: int) -> tuple[list[tuple[str, Path]], dict[str, Any]]:
    """Shards made here, one after another: where the blocks of each source are, and what they were checked against."""
    cleaner = decontaminator(data)
    places: list[tuple[str, Path]] = []
    for shard in track(plan_shards(data, shards), "preparing shards"):
        places += prepare_shard(data, shard, cleaner).items()
    return places, cleaner.checked_against() if cleaner else {}


def _taken(prepared: Sequence[Path]) -> tuple[list[tuple[str, Path]], dict[str, Any]]:
    """Shards that others made, likewise. Raises UserError if they were not checked against the same texts."""
    places: list[tuple[str, Path]] = []
    checked: list[dict[str, Any]] = []
    for folder in prepared:
        manifest = read_manifest(folder, kind="shard")
        if manifest.counts["slices"]:
            checked.append(manifest.extra["decontamination"])
        places += [(part.name, part) for part in sorted(Path(folder).iterdir()) if part.is_dir()]
    if any(one != checked[0] for one in checked):
        raise UserError("the shards were checked against different evaluation texts; prepare all of them again")
    return places, dict(checked[0]) if checked else {}


def _about(data: Data, merged: Merged, checked: Mapping[str, Any]) -> dict[str, Any]:
    """Lineage, what was left out, and what the texts were checked against: the manifest's `extra`."""
    return {
        "sources": merged.lineage,
        "left_out": left_out(data),
        "decontamination": {"checked_against": dict(checked), "dropped": dict(sorted(merged.dropped.items()))},
        "rows": sum(one["rows"] for one in merged.lineage),
    }


def _write_manifests(
    data: Data,
    merged: Merged,
    about: Mapping[str, Any],
    digests: Mapping[str, str],
    dataset: Path,
    eval_sets: Path,
) -> None:
    counts = {name: int(number) for name, number in sorted(merged.counts.items())}
    headline = {
        "data.train_examples": float(counts["train_examples"]),
        "data.train_pairs": float(counts.get("train_retrieval", 0)),
        "data.dev_queries": float(counts.get("dev_retrieval_queries", 0)),
        "data.test_queries": 0.0,
        "data.sources": float(len(merged.lineage)),
        "data.dropped_as_evaluation_text": float(
            sum(one["dropped"].get("evaluation text", 0) for one in merged.lineage)
        ),
    }
    for kind, folder in (("dataset", dataset), ("eval", eval_sets)):
        write_manifest(
            folder,
            kind=kind,
            section=data.model_dump(mode="json"),
            inputs=digests,
            counts=counts,
            licenses={str(one["name"]): str(one["license"]) for one in merged.lineage},
            headline=headline if kind == "dataset" else {},
            extra=about if kind == "dataset" else {},
        )


def _say_what_is_left_out(data: Data) -> None:
    if said := what_falls_out(data.sources, data.forbid_licenses):
        note(said)
    for name, reason in left_out(data).items():
        if data.sources[name].synthesis:
            note(f"source {name} is not read: {reason}")


def _say(merged: Merged, about: Mapping[str, Any]) -> None:
    checked = about["decontamination"]["checked_against"]
    if checked:
        texts = sum(one["texts"] for one in checked.values())
        gone = sum(one["dropped"].get("evaluation text", 0) for one in merged.lineage)
        note(f"checked against {texts:,} texts of {len(checked)} evaluation tasks: {gone:,} examples dropped")
    else:
        note("not checked against any evaluation task: data.decontamination.tasks is empty")
    note(
        f"training has {merged.counts['train_examples']:,} examples of {len(merged.lineage)} sources, "
        f"{merged.counts['train_passages']:,} passages to mine; "
        f"held out {merged.counts.get('dev_retrieval_queries', 0)} queries for dev"
    )
