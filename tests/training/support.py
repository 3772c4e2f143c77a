"""What the tests of training share: made-up examples, a dataset folder, sections, and torchrun."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

from nvembed.core.artifacts import output_folder, write_manifest
from nvembed.core.digests import digest_text
from nvembed.data import Example, write_examples
from nvembed.recipe import Recipe, load_recipe

HERE = Path(__file__).parent
QUICK = ["resources.threads=1", "resources.device=cpu"]


def make_examples(count: int, *, negatives: int = 2, seed: int = 0, task_type: str = "retrieval") -> list[Example]:
    """Random words, uneven lengths; some documents stand in several examples, some examples lack a negative."""
    draw = random.Random(seed)
    words = [f"word{i}" for i in range(150)]

    def text(low: int, high: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(low, high)))

    examples = []
    for index in range(count):
        documents = [text(4, 40) for _ in range(1 + negatives)]
        if examples and index % 4 == 0:
            documents[-1] = examples[-1].positive
        if index % 5 == 3:
            documents.pop()
        symmetric = task_type != "retrieval"
        examples.append(
            Example(
                task="words",
                task_type=task_type,
                query=text(2, 12),
                positive=documents[0],
                negatives=tuple(documents[1:]),
                query_instruction="find the same words",
                document_instruction="find the same words" if symmetric else "",
                source="made up",
                license="CC0-1.0",
                id=digest_text(f"{task_type}{index}"),
            )
        )
    return examples


def make_dataset(folder: Path, examples: list[Example], kind: str = "mined") -> Path:
    """A dataset folder as mining writes it: retrieval examples have a teacher's scores, here random ones."""
    draw = random.Random(1)
    mined = [example.task_type == "retrieval" for example in examples]
    columns = {
        "positive_score": [draw.uniform(0.5, 1) if is_mined else None for is_mined in mined],
        "negative_scores": [
            [draw.uniform(0, 0.9) for _ in e.negatives] if is_mined else []
            for e, is_mined in zip(examples, mined, strict=True)
        ],
    }
    with output_folder(folder) as inside:
        write_examples(inside, examples, columns=columns if kind == "mined" else None)
        write_manifest(
            inside, kind=kind, section={}, licenses={"made up": "CC0-1.0"}, counts={"examples": len(examples)}
        )
    return folder


def make_eval_sets(folder: Path, examples: list[Example], *, split: str = "dev") -> Path:
    """An eval folder with one retrieval task: the examples' queries against their positives and first negatives."""
    texts = dict.fromkeys(text for e in examples for text in (e.positive, *e.negatives[:1]))
    ids = {text: f"d{index}" for index, text in enumerate(texts)}
    with output_folder(folder) as inside:
        task = inside / split / "words"
        write_tables(
            task,
            corpus=[{"id": ids[text], "text": text} for text in texts],
            queries=[{"id": f"q{index}", "text": e.query} for index, e in enumerate(examples)],
            qrels=[
                {"query_id": f"q{index}", "corpus_id": ids[e.positive], "score": 1} for index, e in enumerate(examples)
            ],
        )
        head = {"name": "words", "type": "Retrieval", "instruction": "find the same words", "document_instruction": ""}
        (task / "task.json").write_text(json.dumps(head))
        write_manifest(inside, kind="eval", section={}, licenses={"made up": "CC0-1.0"})
    return folder


def write_tables(folder: Path, **tables: list[dict]) -> None:
    """Parquet files by name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    for name, rows in tables.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")


def recipe(*overrides: str) -> Recipe:
    """The recipe `tiny`, on one CPU thread."""
    return load_recipe("tiny", [*QUICK, *overrides])


def torchrun(processes: int, *arguments: str) -> None:
    """Run a Python program on some ranks; fails with what it said."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
