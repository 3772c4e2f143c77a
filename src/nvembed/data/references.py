"""The texts a model is judged by, as decontamination needs them: of MTEB tasks by name, of evaluation sets in files.

Of a retrieval or reranking task the queries count, not the corpus: its passages are open to all, and training on them
is no leak (what MTEB calls in-domain is told apart elsewhere). Of every other task all texts of its evaluated splits
count.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvembed.core.digests import digest_json
from nvembed.core.errors import UserError
from nvembed.core.progress import Progress
from nvembed.core.state import hold, state_folder

if TYPE_CHECKING:
    from nvembed.recipe.decontamination import Decontamination

_GO_ON = "check the network, leave the task out, or go on unchecked with data.decontamination.tasks=[]"
_COLUMNS = ("text", "sentences", "sentence1", "sentence2", "human_summaries", "machine_summaries")
_COLUMN_ATTRIBUTES = ("input_column_name", "input1_column_name", "input2_column_name")


@dataclass(frozen=True, slots=True)
class Reference:
    """A text of an evaluation task."""

    task: str
    text: str


def read_references(section: Decontamination, mirror: str | None = None) -> list[Reference]:
    """The texts of every task and file that a section names, each once a task, in the order named.

    Args:
        section: what to check against.
        mirror: a folder in place of the hub (`data.hub_mirror`), where the tasks' datasets are read from.

    Raises:
        UserError: an unknown task (the nearest known one is named), data that cannot be had, a file without texts.
    """
    found: dict[Reference, None] = {}
    for task in _tasks(section.tasks):
        texts = _kept_texts(task) if mirror is None else mirrored_texts(task, mirror)
        found |= dict.fromkeys(Reference(task.metadata.name, text) for text in texts)
    for path in section.files:
        texts = list(_file_texts(path))
        if not texts:
            raise UserError(f"data.decontamination.files: {path}: holds no texts; give a folder or file that does")
        found |= dict.fromkeys(Reference(Path(path).name, text) for text in texts)
    return list(found)


def _tasks(names: Iterable[str]) -> list[Any]:
    """MTEB's task objects, benchmarks and aggregated tasks taken apart, each once."""
    names = list(names)
    if not names:  # importing mteb takes seconds
        return []
    import mteb

    found: dict[str, Any] = {}
    for name in names:
        try:
            tasks = mteb.get_benchmark(name).tasks
        except KeyError:
            try:
                tasks = [mteb.get_task(name)]
            except KeyError:
                known = sorted(
                    mteb.get_tasks(exclude_aggregate=False, exclude_superseded=False).to_dataframe(["name"])["name"]
                )
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                mend = f"did you mean {near[0]!r}?" if near else "see mteb's list of tasks and benchmarks"
                raise UserError(
                    f"data.decontamination.tasks: {name!r} is no task or benchmark of MTEB; {mend}"
                ) from None
        for task in tasks:
            for part in getattr(task, "tasks", None) or [task]:
                found.setdefault(part.metadata.name, part)
    return list(found.values())


def _kept_texts(task: Any) -> list[str]:
    """`task_texts`, kept in the state folder: its dataset is pinned, and every shard of a mix asks for it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = task.metadata
    place = state_folder("references", digest_json([about.name, dict(about.dataset), sorted(about.eval_splits)]))
    file = place / "texts.parquet"
    with hold(place):
        if not file.is_file():
            aside = place / ".texts.partial"
            pq.write_table(pa.table({"text": pa.array(task_texts(task), pa.string())}), aside, compression="zstd")
            aside.replace(file)
    return [str(text) for text in pq.read_table(file)["text"].to_pylist()]


def task_texts(task: Any) -> Iterator[str]:
    """The texts of an MTEB task's evaluated splits, loaded if they are not yet."""
    name = task.metadata.name
    progress = Progress(f"reading {name}")
    if not task.data_loaded:
        try:
            task.load_data()
        except Exception as error:  # every host and format has errors of its own
            said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise UserError(
                f"data.decontamination.tasks: {name}: its data cannot be read ({said}); {_GO_ON}"
            ) from error
    if hasattr(task, "convert_v1_dataset_format_to_v2"):
        task.convert_v1_dataset_format_to_v2(num_proc=None)
    columns = dict.fromkeys([*_COLUMNS, *(getattr(task, attribute, None) for attribute in _COLUMN_ATTRIBUTES)])
    count = 0
    for part in _splits(task.dataset, task.metadata.eval_splits):
        for text in _queries(part) if "queries" in part else _column_texts(part, columns):
            count += 1
            if count % 10_000 == 0:
                progress.update(count)
            yield text


def check_references(section: Decontamination, mirror: str | None = None) -> None:
    """Raises UserError if a task is unknown or its dataset, or a file, is not where it should be; reads no texts."""
    for task in _tasks(section.tasks):
        name, place = task.metadata.name, task.metadata.dataset
        if mirror is not None:
            _in_mirror(task, mirror)
            continue
        from huggingface_hub import HfApi

        try:
            HfApi().dataset_info(place["path"], revision=place.get("revision"), timeout=30)
        except Exception as error:  # every library beneath has errors of its own here
            said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise UserError(
                f"data.decontamination.tasks: {name}: {place['path']} cannot be had ({said}); {_GO_ON}"
            ) from error
    for path in section.files:
        if "://" not in path and not Path(path).exists():
            raise UserError(f"data.decontamination.files: {path}: is not there; check the path")


def mirrored_texts(task: Any, mirror: str) -> Iterator[str]:
    """The texts of an MTEB task from a mirror, `<repo>/<config>/<split>.*`; of a retrieval task its queries'.

    Raises UserError if its repository or every evaluated split is missing.
    """
    files = _in_mirror(task, mirror)
    searches = task.metadata.type in ("Retrieval", "Reranking", "InstructionRetrieval")
    own = (getattr(task, attribute, None) for attribute in _COLUMN_ATTRIBUTES)
    columns = {*_COLUMNS, "query", *(column for column in own if isinstance(column, str))}
    from nvembed.data.rows import read_rows

    if searches and any(file.parent.name == "queries" for file in files):
        files = [file for file in files if file.parent.name == "queries"]
    count = 0
    for file in files:
        for _, row in read_rows(str(file), {}, columns):
            if isinstance(row, dict):
                for text in _flat(row.get(column) for column in sorted(columns)):
                    count += 1
                    yield text
    if not count:
        raise UserError(f"data.decontamination.tasks: {task.metadata.name}: no texts in {files[0].parent}; {_GO_ON}")


def _in_mirror(task: Any, mirror: str) -> list[Path]:
    """The files of a task's evaluated splits, and its queries, in a mirror."""
    home, splits = Path(mirror) / task.metadata.dataset["path"], set(task.metadata.eval_splits)
    files = [
        file
        for file in sorted(home.glob("*/*"))
        if (stem := file.name.partition(".")[0].partition("-0")[0]) in splits or file.parent.name == stem == "queries"
    ]
    if not files:
        raise UserError(
            f"data.decontamination.tasks: {task.metadata.name}: {task.metadata.dataset['path']} has no "
            f"{' or '.join(sorted(splits))} in data.hub_mirror {mirror}; {_GO_ON}"
        )
    return files


def _splits(dataset: Mapping[str, Any], wanted: Iterable[str]) -> Iterator[Any]:
    """The wanted splits of a dataset, which may lie under subsets."""
    wanted = set(wanted)
    for name, part in dataset.items():
        if name in wanted:
            yield part
        elif hasattr(part, "keys"):
            yield from (inner for split, inner in part.items() if split in wanted)


def _queries(part: Mapping[str, Any]) -> Iterator[str]:
    queries = part["queries"]
    rows = queries["text"] if not isinstance(queries, Mapping) else queries.values()
    yield from _flat(rows)


def _column_texts(part: Any, columns: Iterable[Any]) -> Iterator[str]:
    for column in columns:
        if isinstance(column, str) and column in part.column_names:
            yield from _flat(part[column])


def _flat(values: Iterable[Any]) -> Iterator[str]:
    """Texts, also those in lists of texts; other values (numbers, turns of a dialogue) are passed over."""
    for value in values:
        if isinstance(value, str):
            if value.strip():
                yield value
        elif isinstance(value, list | tuple):
            yield from _flat(value)


def _file_texts(path: str) -> Iterator[str]:
    """Texts of a file, column `text` or `query`; of a folder, those of `queries.*` (BEIR form) or of its files."""
    from nvembed.data.rows import read_rows

    files = [path]
    if Path(path).is_dir():
        inside = sorted(str(file) for file in Path(path).rglob("*") if file.suffix in (".jsonl", ".parquet", ".csv"))
        queries = [file for file in inside if Path(file).stem == "queries"]
        files = queries or [file for file in inside if Path(file).stem not in ("corpus", "qrels")]
    for file in files:
        for _, row in read_rows(file, {}, {"text", "query"}):
            if isinstance(row, dict):
                yield from _flat(row.get(column) for column in ("text", "query"))
