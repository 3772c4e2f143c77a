"""A local server that speaks the chat-completions API and answers from the prompt by rule, with faults to switch on.

It counts every request by what it asks, so that a test can tell whether anything was asked for twice.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-planted-0123456789abcdefghijklmnopqrstuvwxyz"
MODEL = "rules-1"
_QUOTED = re.compile(r"<<<\n(.*?)\n>>>", re.DOTALL)
_SENTENCE = re.compile(r"[A-Z][^.!?]{20,200}[.!?]")
GERMAN = "Wie kann ich das am besten einstellen, wenn es nicht so funktioniert, wie ich es mir wünsche?"


@dataclass
class ChatServer:
    """What the server knows and does.

    Attributes:
        faults: names that are used up one a request, in order ("" is a sound answer): `429`, `500`, `slow`,
            `broken-json`, `half`, `wrong-language`, `empty`, `cut`, `no-json`, `too-long`, `echo-key`, `html`, `400`.
        always: a fault of every request.
        asked, answered: digest of a request's body → how often it came, how often a sound answer went out.
        schema: whether `response_format` is known here. delay: seconds for each answer.
        gone: connections are dropped without a word. open: while it is not set, answers are held back.
    """

    port: int = 0
    faults: deque[str] = field(default_factory=deque)
    always: str = ""
    schema: bool = True
    delay: float = 0.0
    gone: bool = False
    open: threading.Event = field(default_factory=threading.Event)
    retry_after: str = "0.2"
    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    at_once: int = 0

    @property
    def seen(self) -> int:
        """Requests that came."""
        return sum(self.asked.values())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def overrides(self, **more: Any) -> list[str]:
        """What makes a recipe ask here."""
        endpoint = {"base_url": self.url, "model": MODEL, "api_key_env": "PLANTED_KEY", **more}
        return ["synthesis.enabled=true", f"synthesis.endpoints=[{json.dumps(endpoint)}]"]


@contextmanager
def chat_server(port: int = 0, **settings: Any) -> Iterator[ChatServer]:
    """A server on this machine, in threads of its own."""
    state = ChatServer(**settings)
    state.open.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            _send(self, 200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if state.gone:
                self.connection.close()
                self.close_connection = True
                return
            with state.lock:
                state.at_once += 1
                state.most_at_once = max(state.most_at_once, state.at_once)
            try:
                _serve(state, self, body)
            finally:
                with state.lock:
                    state.at_once -= 1

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def _serve(state: ChatServer, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    told = [body["model"], body["messages"], body.get("seed")]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    with state.lock:
        state.asked[digest] += 1
        state.bodies.append(body)
        state.times.append(time.monotonic())
        fault = state.faults.popleft() if state.faults else state.always
    state.open.wait(timeout=60)
    if handler.headers.get("Authorization") != f"Bearer {KEY}":
        given = handler.headers.get("Authorization")
        return _send(
            handler, 401, {"error": {"message": f"Incorrect API key provided: {given}", "code": "invalid_api_key"}}
        )
    if body["model"] != MODEL:
        return _send(
            handler, 404, {"error": {"message": f"The model {body['model']} does not exist", "code": "model_not_found"}}
        )
    if not state.schema and "response_format" in body:
        return _send(handler, 400, {"error": {"message": "response_format: json_schema is not supported"}})
    if fault == "429":
        return _send(handler, 429, {"error": {"message": "slow down"}}, {"Retry-After": state.retry_after})
    if fault == "500":
        return _send(
            handler, 500, {"error": {"message": f"broken inside, header was {handler.headers['Authorization']}"}}
        )
    if fault == "400":
        return _send(handler, 400, {"error": {"message": "Unsupported parameter: 'max_tokens'"}})
    if fault == "too-long":
        said = "This model's maximum context length is 512 tokens"
        return _send(handler, 400, {"error": {"message": said, "code": "context_length_exceeded"}})
    if fault == "slow":
        time.sleep(1.5)
    if fault == "html":
        return _send_raw(handler, 200, b"<html>a proxy's page</html>", "text/html")
    if fault == "broken-json":
        return _send_raw(handler, 200, b'{"id": "x", "choices": [{"mess', "application/json")
    time.sleep(state.delay)
    text = answer(body, fault)
    usage = {"prompt_tokens": len(str(body["messages"])) // 4, "completion_tokens": len(text) // 4}
    usage["total_tokens"] = sum(usage.values())
    message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    whole = {"id": "c", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [message], "usage": usage}
    if fault == "half":  # a connection that ends in the middle of a body
        raw = json.dumps(whole).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw[: len(raw) // 2])
        handler.close_connection = True
        return None
    with state.lock:
        state.answered[digest] += 1
    return _send(handler, 200, whole)


def answer(body: dict[str, Any], fault: str = "") -> str:
    """What a model answers: by rule from the prompt, or as the fault has it."""
    prompt = body["messages"][-1]["content"]
    if fault == "empty":
        return ""
    if fault == "no-json":
        return "I would rather not."
    if "Think up" in prompt:
        number = int(re.search(r"Think up (\d+)", prompt)[1])  # type: ignore[index]
        kind = re.search(r"different (.*?)\.", prompt)[1]  # type: ignore[index]
        turn = re.search(r"list (\d+)", prompt)[1]  # type: ignore[index]
        return json.dumps(
            {"tasks": [f"Given item {n} of list {turn} in {kind}, retrieve its match" for n in range(number)]}
        )
    quoted = _QUOTED.search(prompt)
    material = quoted[1] if quoted else ""
    if "give a whole number from 1 to 5" in prompt:
        queries = re.findall(r"^\d+\. .*$", _QUOTED.findall(prompt)[1], re.M)
        return json.dumps({"scores": [1 if "badly" in query.lower() else 5 for query in queries]})
    if '"positive"' in prompt:
        mark = hashlib.sha256(f"{body.get('seed')}{prompt}".encode()).hexdigest()
        words = [mark[at : at + 4] for at in range(0, 60, 4)]
        return json.dumps(
            {
                "query": f"What is said about {' '.join(words[:4])} there",
                "positive": f"It is said that {' '.join(words)} belong together in {material[:60]}",
                "hard_negatives": [f"Something else on {' '.join(reversed(words))}"],
            }
        )
    if (bare := re.search(r"\n\nWrite (one|(\d+) lines)", prompt)) is not None:
        return "\n".join(questions(prompt[: bare.start()], int(bare[2] or 1)))
    wanted = len(re.findall(r"^\d+\. .*; in \w+", prompt, re.M))
    made = [
        {"query": query, "hard_negatives": [f"Nothing of this kind is known about entry {number} of any list whatever"]}
        for number, query in enumerate(questions(material, wanted))
    ]
    if fault == "wrong-language":
        made = [{**one, "query": f"{GERMAN} {one['query'].split()[-1]}"} for one in made]
    whole = json.dumps({"queries": made})
    if fault == "cut":
        return whole[: int(len(whole) * 0.7)]
    if fault == "echo-key":
        return whole.replace("Nothing of this kind", f"Nothing with {KEY}")
    return f"Here you are:\n```json\n{whole}\n```"


def questions(passage: str, number: int) -> list[str]:
    """Sentences of a passage turned into questions."""
    sentences = _SENTENCE.findall(" ".join(passage.split())) or [passage.strip()[:120]]
    chosen = [sentences[at * len(sentences) // number] for at in range(number)]
    return [f"Can you tell me whether {one[0].lower()}{one[1:].rstrip('.!?')}?" for one in chosen]


def _send(
    handler: BaseHTTPRequestHandler, status: int, content: dict[str, Any], headers: dict[str, str] | None = None
) -> None:
    _send_raw(handler, status, json.dumps(content).encode(), "application/json", headers)


def _send_raw(
    handler: BaseHTTPRequestHandler, status: int, raw: bytes, kind: str, headers: dict[str, str] | None = None
) -> None:
    try:
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the client did not wait
