"""AIR-Bench 24.04 and 24.05: question answering and search within long documents.

On the hub: `AIR-Bench/<qa|long-doc>_<domain>_<language>`, the version (`AIR-Bench_24.05`) as its configuration, splits
`corpus_<dataset>` and `queries_<dataset>_<dev|test>`, columns `id` and `text`; judgements in
`AIR-Bench/qrels-<…>-dev`, columns `qid`, `docid` and `relevance`. 24.04 has test alone, its splits without the ending.
Test judgements are private (`submission`). `airbench.json` lists its datasets: type, domain, language, name, splits,
passages, tokens a passage.
"""

from __future__ import annotations

import functools
import json
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

CHARACTERS = 4
"""Of a token, to compare with what other tasks cost."""


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
            raise UserError(
                f"{repo}, {config}, {split}: no column {missing[0]!r}; it has {', '.join(rows.column_names)}"
            )
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
        for word in named:
            if word not in known:
                there = ", ".join(sorted(known))
                raise UserError(f"evaluation.air_bench.{key}: {word!r} is none of {there}; {nearest(word, known)}")
    if not found:
        raise UserError(
            f"evaluation.air_bench: {' and '.join(section.versions)} have nothing of these types, domains, languages "
            "and splits (24.04 has test alone)"
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
            piece = Piece("", made_of(one, "dev", sentences), functools.partial(_score, one), sentences)
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


def told(section: AirBench) -> Instruction:
    """The task sentences."""
    return Instruction(section.instruction, "")


def _score(one: AirSet, model: Any) -> Scored:

    from nvembed.evaluation.scoring import score_task

    task = air_task(one, "dev")
    task.load_data()
    return score_task(task, model, split="dev")


def air_task(one: AirSet, split: str) -> Any:
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


def made_of(one: AirSet, split: str, sentences: Instruction) -> dict[str, Any]:
    """All that decides a result beside the model."""
    import mteb

    about = [one.version, one.repo, one.dataset, split, one.mirror]
    return {"air_bench": about, "told": list(sentences), "mteb": mteb.__version__}


@functools.cache
def _table() -> dict[str, list[list[Any]]]:
    file = resources.files("nvembed.evaluation") / "airbench.json"
    found: dict[str, list[list[Any]]] = json.loads(file.read_text(encoding="utf-8"))
    return found
