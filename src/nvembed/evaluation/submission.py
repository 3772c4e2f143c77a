"""AIR-Bench's test sets, whose judgements are private: rankings in the form that its leaderboard takes and scores.

A zip holds `<type>/<domain>/<language>_<dataset>_test.json`: the model's name, the dataset's place, and of each query
the nearest passages with their scores.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.evaluation.airbench import AirSet, air_task, chosen_sets, made_of, told

if TYPE_CHECKING:
    from nvembed.recipe import AirBench

TOP = 1000
"""Documents of a ranking that is handed in, as the benchmark's own search keeps."""
NO_RERANKER = "NoReranker"


def plan_submission(section: AirBench | None) -> list[AirSet]:
    """The datasets whose test rankings are written. Raises UserError as `chosen_sets`."""
    if section is None or "test" not in section.splits:
        return []
    return [one for one in chosen_sets(section) if "test" in one.splits]


def rankings(one: AirSet, model: Any) -> dict[str, dict[str, float]]:
    """The test queries' nearest passages, `TOP` each: query id → passage id → score."""
    from mteb.models import SearchEncoderWrapper

    from nvembed.evaluation.scoring import ENCODE, quiet

    task = air_task(one, "test")
    search = SearchEncoderWrapper(model)
    with quiet():
        common = {
            "task_metadata": task.metadata,
            "hf_split": "test",
            "hf_subset": "default",
            "encode_kwargs": dict(ENCODE),
        }
        search.index(one.corpus(), **common)
        found = search.search(one.queries("test"), top_k=TOP, **common)
    return {str(query): {str(i): float(score) for i, score in hits.items()} for query, hits in found.items()}


def place_of(one: AirSet) -> str:
    """Where a dataset's rankings stand in the zip."""
    return f"{one.task_type}/{one.domain}/{one.language}_{one.dataset}_test.json"


def submission(one: AirSet, found: Mapping[str, Mapping[str, float]], model_name: str) -> str:
    """What stands there."""
    ordered = {
        query: dict(sorted(hits.items(), key=lambda hit: (-hit[1], hit[0]))[:TOP]) for query, hits in found.items()
    }
    content = {
        "model_name": model_name,
        "reranker_name": NO_RERANKER,
        "benchmark_version": f"AIR-Bench_{one.version}",
        "task_type": one.task_type,
        "domain": one.domain,
        "language": one.language,
        "dataset_name": one.dataset,
        "split": "test",
        "search_results": ordered,
    }
    return json.dumps(content, indent=4)


def zip_name(version: str, model_name: str) -> str:
    """Of the zip of a version, in the evaluation folder."""
    return f"AIR-Bench_{version}/{model_name}_{NO_RERANKER}.zip"


def write_zip(file: Path, entries: Iterator[tuple[str, str]]) -> None:
    """A zip of texts by name; equal texts give equal bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as packed:
        for name, text in entries:
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(info, text)


def made_of_rankings(one: AirSet, section: AirBench) -> dict[str, Any]:
    """All that decides test rankings beside the model."""
    return made_of(one, "test", told(section))
