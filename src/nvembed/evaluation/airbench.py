"""AIR-Bench 24.04 and 24.05: question answering and search within long documents.

On the hub: `AIR-Bench/<qa|long-doc>_<domain>_<language>`, the version (`AIR-Bench_24.05`) as its configuration, splits
`corpus_<dataset>` and `queries_<dataset>_<dev|test>`, columns `id` and `text`; judgements in
`AIR-Bench/qrels-<…>-dev`, columns `qid`, `docid` and `relevance`. 24.04 has test alone, its splits without the ending.
Test judgements are private: rankings go into a zip, `<type>/<domain>/<language>_<dataset>_test.json`, that the
benchmark's leaderboard takes. `airbench.json` lists its datasets: type, domain, language, name, splits, passages, tokens
a passage.
"""

from __future__ import annotations

import functools
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.errors import UserError
from nvembed.evaluation.instructions import Instruction
from nvembed.evaluation.selection import nearest

if TYPE_CHECKING:
    from datasets import Dataset

    from nvembed.evaluation.plan import Planned
    from nvembed.evaluation.scoring import Scored
    from nvembed.recipe import AirBench

TOP = 1000
"""Documents of a ranking that is handed in, as the benchmark's own search keeps."""
CHARACTERS = 4
"""Of a token, to compare with what other tasks cost."""
NO_RERANKER = "NoReranker"


@dataclass(frozen=True)
class AirSet:
    """A dataset of a version; `mirror` is a folder in place of the hub."""

    version: str
    task_type: str
    domain: str
    language: str
    dataset: str
    splits: tuple[str, ...]
    passages: int
    tokens: int
    mirror: str | None = None

    @property
    def name(self) -> str:
        """Names it among all tasks."""
        own = [] if self.dataset == "default" else [self.dataset]
        return ".".join([f"AIR-Bench_{self.version}", self.task_type, self.domain, self.language, *own])

    @property
    def repo(self) -> str:
        """Of corpus and queries, on the hub."""
        return f"AIR-Bench/{self.task_type}_{self.domain}_{self.language}"

    @property
    def _ending(self) -> str:
        return self.dataset.replace("-", "_")

    def corpus(self) -> Dataset:
        """Passages, columns `id` and `text`."""
        return self._load(self.repo, f"corpus_{self._ending}", "id", "text")

    def queries(self, split: str) -> Dataset:
        """Queries, columns `id` and `text`."""
        return self._load(self.repo, f"queries_{self._ending}{self._of(split)}", "id", "text")

    def qrels(self) -> dict[str, dict[str, int]]:
        """Judgements of the dev split: query id → passage id → relevance."""
        repo = self.repo.replace("AIR-Bench/", "AIR-Bench/qrels-") + "-dev"
        rows = self._load(repo, f"qrels_{self._ending}{self._of('dev')}", "qid", "docid", "relevance")
        found: dict[str, dict[str, int]] = {}
        for row in rows:
            found.setdefault(str(row["qid"]), {})[str(row["docid"])] = int(row["relevance"])
        return found

    def _of(self, split: str) -> str:
        return "" if self.version == "24.04" else f"_{split}"

    def _load(self, repo: str, split: str, *columns: str) -> Dataset:
        import datasets

        config = f"AIR-Bench_{self.version}"
        if self.mirror is None:
            rows = datasets.load_dataset(repo, config, split=split)
        else:
            folder = Path(self.mirror) / repo / config
            files = sorted(file for file in folder.glob(f"{split}*") if file.name.split(".")[0].split("-0")[0] == split)
            if not files:
                raise UserError(f"evaluation.air_bench.mirror: {folder} holds no {split}.parquet or {split}.jsonl")
            kind = "parquet" if files[0].suffix == ".parquet" else "json"
            rows = datasets.load_dataset(kind, data_files=[str(file) for file in files], split="train")
        if missing := [column for column in columns if column not in rows.column_names]:
            raise UserError(f"{repo}, {config}, {split}: no column {missing[0]!r}; it has {', '.join(rows.column_names)}")
        return rows.select_columns(list(columns))


def chosen_sets(section: AirBench) -> list[AirSet]:
    """The datasets of a section. Raises UserError for a domain or language that there is not, or if none is left."""
    found = []
    for version in section.versions:
        for kind, domain, language, dataset, splits, passages, tokens in _table()[version]:
            if (
                kind in section.task_types
                and domain in (section.domains or [domain])
                and language in (section.languages or [language])
                and set(splits) & set(section.splits)
            ):
                one = AirSet(version, kind, domain, language, dataset, tuple(splits), passages, tokens, section.mirror)
                found.append(one)
    rows = [row for version in section.versions for row in _table()[version]]
    for key, place, named in (("domains", 1, section.domains), ("languages", 2, section.languages)):
        known = {row[place] for row in rows}
        for one in named:
            if one not in known:
                raise UserError(
                    f"evaluation.air_bench.{key}: {one!r} is none of {', '.join(sorted(known))}; {nearest(one, known)}"
                )
    if not found:
        raise UserError(
            f"evaluation.air_bench: {' and '.join(section.versions)} have nothing of these types, domains, languages and "
            "splits (24.04 has test alone)"
        )
    return found


def plan_air_bench(section: AirBench | None) -> list[Planned]:
    """The tasks that are scored here: those with a dev split. Raises UserError as `chosen_sets`."""
    from nvembed.evaluation.plan import ROLE, Piece, Planned

    if section is None:
        return []
    planned = []
    sentences = told(section)
    for one in chosen_sets(section) if "dev" in section.splits else []:
        if "dev" in one.splits:
            piece = Piece("", _made_of(one, "dev", sentences), functools.partial(_score, one), sentences)
            planned.append(
                Planned(
                    split=ROLE,
                    name=one.name,
                    type="Retrieval",
                    main_score="ndcg_at_10",
                    instruction=section.instruction,
                    group="air-bench",
                    pieces=(piece,),
                    cost=one.passages * one.tokens * CHARACTERS,
                    hf_split="dev",
                    subsets=("default",),
                    known_as=frozenset({one.repo, *(["MSMARCO"] if one.domain == "msmarco" else [])}),
                )
            )
    return planned


def plan_submission(section: AirBench | None) -> list[AirSet]:
    """The datasets whose test rankings are written. Raises UserError as `chosen_sets`."""
    if section is None or "test" not in section.splits:
        return []
    return [one for one in chosen_sets(section) if "test" in one.splits]


def rankings(one: AirSet, model: Any) -> dict[str, dict[str, float]]:
    """The test queries' nearest passages, `TOP` each: query id → passage id → score."""
    from mteb.models import SearchEncoderWrapper

    from nvembed.evaluation.scoring import ENCODE, quiet

    task = _task(one, "test")
    search = SearchEncoderWrapper(model)
    with quiet():
        common = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default", "encode_kwargs": dict(ENCODE)}
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


def told(section: AirBench) -> Instruction:
    """The task sentences."""
    return Instruction(section.instruction, "")


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


def _score(one: AirSet, model: Any) -> Scored:
    from nvembed.evaluation.scoring import score_task

    task = _task(one, "dev")
    task.load_data()
    return score_task(task, model, split="dev")


def _task(one: AirSet, split: str) -> Any:
    """An ordinary retrieval task of mteb's."""
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class AirTask(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=one.name,
            description=f"AIR-Bench {one.version}, {one.task_type}, {one.domain}, {one.language}, {one.dataset}",
            dataset={"path": one.repo, "revision": f"AIR-Bench_{one.version}"},
            type="Retrieval",
            category="t2t",
            modalities=["text"],
            eval_splits=[split],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
            """Hand mteb what the hub holds."""
            data: Any = {
                "corpus": one.corpus(),
                "queries": one.queries(split),
                "relevant_docs": one.qrels(),
                "top_ranked": None,
            }
            self.dataset = {"default": {split: data}}
            self.data_loaded = True

    return AirTask()


def made_of_rankings(one: AirSet, section: AirBench) -> dict[str, Any]:
    """All that decides test rankings beside the model."""
    return _made_of(one, "test", told(section))


def _made_of(one: AirSet, split: str, sentences: Instruction) -> dict[str, Any]:
    import mteb

    about = [one.version, one.repo, one.dataset, split, one.mirror]
    return {"air_bench": about, "told": list(sentences), "mteb": mteb.__version__}


@functools.cache
def _table() -> dict[str, list[list[Any]]]:
    file = resources.files("nvembed.evaluation") / "airbench.json"
    found: dict[str, list[list[Any]]] = json.loads(file.read_text(encoding="utf-8"))
    return found
