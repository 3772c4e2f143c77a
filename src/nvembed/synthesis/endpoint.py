"""One endpoint: sends a prompt through the `openai` client and tells apart what can go wrong.

The key is read from the environment or a mounted secret, given to the client and to nobody else. Whatever comes back
from a server is searched for it before it is kept or shown, since some servers repeat what they were sent.
"""

from __future__ import annotations

import email.utils
import logging
import os
import random
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nvembed.core.errors import UserError
from nvembed.synthesis.answers import Spent
from nvembed.synthesis.prompts import likely_tokens, most_tokens

if TYPE_CHECKING:
    from nvembed.recipe import Endpoint as Section
    from nvembed.recipe.synthesis import Asking
    from nvembed.synthesis.prompts import Prompt

SECRETS = "NVEMBED_SECRETS"
SECRETS_MOUNT = "/secrets"  # where the pipeline mounts the secret: one file a key
_NO_KEY = "none"
_LONGEST_PAUSE = 30.0
_TOO_LONG = re.compile(
    r"context.?(length|window|size)|maximum context|too (long|many tokens)|exceeds?.{0,40}tokens", re.I
)
_OUT_OF_MONEY = re.compile(r"insufficient_quota|billing|out of credit", re.I)
_FIRST_REFUSALS = 8  # so many requests refused before any was answered tell of the settings, not of the requests
_BYTES_A_TOKEN = 4


class Trouble(Exception):
    """A request gave no answer. `spent`: what it took all the same."""

    def __init__(
        self,
        why: str,
        kind: Literal["wait", "retry", "refused"],
        *,
        pause: float | None = None,
        spent: Spent | None = None,
    ) -> None:
        super().__init__(why)
        self.why, self.kind, self.pause, self.spent = why, kind, pause, spent


@dataclass(frozen=True)
class Reply:
    """A text with the tokens sent and answered."""

    text: str
    sent: int
    answered: int


class Endpoint:
    """A server and one of its models. Safe for threads; trouble that concerns all requests pauses all of them."""

    def __init__(self, section: Section, asking: Asking) -> None:
        import openai

        for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
            logging.getLogger(name).setLevel(logging.WARNING)  # they tell of every request, and what was sent with it
        self.section, self._asking = section, asking
        key = _read_key(section.api_key_env)
        self._key = key or _NO_KEY
        self._client = openai.OpenAI(
            base_url=section.base_url, api_key=self._key, timeout=asking.timeout, max_retries=0
        )
        self._answered_once, self._refusals = False, 0
        self._schema: bool | None = False if section.json_schema == "never" else None  # None: not known yet
        self._lock = threading.Lock()
        self._not_before = self._pause = 0.0
        self._in_trouble_since: float | None = None

    def cost(self, sent: int, answered: int) -> float | None:
        """Money for so many tokens; None where prices are not known."""
        if self.section.price_in is None or self.section.price_out is None:
            return None
        return (sent * self.section.price_in + answered * self.section.price_out) / 1e6

    def most(self, prompt: Prompt) -> Spent:
        """What a request can take at most."""
        sent, answered = most_tokens(prompt, self._asking.spare_tokens)
        return Spent(1, sent + answered, self.cost(sent, answered) or 0.0)

    def likely(self, prompt: Prompt) -> Spent:
        """What a request will likely take, and what one took of which nothing came back."""
        sent, answered = likely_tokens(prompt)
        return Spent(1, sent + answered, self.cost(sent, answered) or 0.0)

    def wait(self, stop: threading.Event) -> None:
        """Wait until the endpoint may be asked again, or `stop` is set."""
        while (left := self._not_before - time.monotonic()) > 0 and not stop.is_set():
            stop.wait(min(left, 1.0))

    def send(self, prompt: Prompt, seed: int) -> Reply:
        """Ask once. Raises Trouble, or UserError for what no second try would mend."""
        try:
            reply = self._send(prompt, seed)
        except _SchemaRefused:
            reply = self._send(prompt, seed, plain=True)
            with self._lock:
                self._schema = False  # remembered: the server takes the request without it
        with self._lock:
            self._in_trouble_since, self._pause, self._answered_once = None, 0.0, True
        return reply

    def trouble(self, trouble: Trouble) -> None:
        """Pause for what concerns all requests. Raises UserError when patience is at an end."""
        now = time.monotonic()
        with self._lock:
            if self._in_trouble_since is None:
                self._in_trouble_since = now
            if trouble.kind == "wait" and now >= self._not_before:
                self._pause = min(max(0.5, 2 * self._pause), _LONGEST_PAUSE)
                # back-off with jitter, so that all do not come again in the same moment
                pause = trouble.pause if trouble.pause is not None else self._pause * random.uniform(0.5, 1.0)
                self._not_before = now + pause
            waited = max(now, self._not_before) - self._in_trouble_since
        if waited > self._asking.patience:
            raise UserError(
                f"synthesis.endpoints: {self.section.base_url}: no answer for {round(now - self._in_trouble_since)} s "
                f"({trouble.why}); what was answered is kept: start again when it is back, or raise "
                f"synthesis.asking.patience ({self._asking.patience:g} s)"
            )

    def _send(self, prompt: Prompt, seed: int, *, plain: bool = False) -> Reply:
        import openai

        with_schema = bool(prompt.schema) and self._schema is not False and not plain
        try:
            made: Any = self._client.chat.completions.create(**self._request(prompt, seed, with_schema))
        except openai.APITimeoutError:
            raise Trouble("time-out", "retry", spent=self.likely(prompt)) from None
        except openai.APIConnectionError as error:
            why = self._scrub(str(error.__cause__ or error))
            if "peer closed" in why or "incomplete" in why.lower():  # it worked, and the answer broke off on its way
                raise Trouble("an answer that broke off", "retry", spent=self.likely(prompt)) from None
            raise Trouble(f"cannot be reached ({why[:120]})", "wait") from None
        except openai.APIStatusError as error:
            raise self._status(error, with_schema) from None
        except (openai.OpenAIError, ValueError) as error:  # a body that is no JSON
            raise Trouble(
                f"an unreadable answer ({type(error).__name__})", "retry", spent=self.likely(prompt)
            ) from None
        if with_schema:
            self._schema = True
        return self._reply(made, prompt)

    def _request(self, prompt: Prompt, seed: int, with_schema: bool) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self.section.model,
            "messages": [{"role": role, "content": text} for role, text in prompt.messages],
            "temperature": self._asking.temperature,
            self.section.token_limit: most_tokens(prompt, self._asking.spare_tokens)[1],
        }
        if self.section.send_seed:
            request["seed"] = seed
        if with_schema:
            shape = {"name": "answer", "strict": True, "schema": dict(prompt.schema)}
            request["response_format"] = {"type": "json_schema", "json_schema": shape}
        return request

    def _reply(self, made: Any, prompt: Prompt) -> Reply:
        try:
            text = made.choices[0].message.content or ""
        except (AttributeError, IndexError, TypeError):
            raise Trouble("an answer without a message", "retry", spent=self.likely(prompt)) from None
        usage = getattr(made, "usage", None)
        likely_sent, _ = likely_tokens(prompt)
        sent = getattr(usage, "prompt_tokens", None) or likely_sent
        answered = getattr(usage, "completion_tokens", None)
        if answered is None:
            answered = len(text.encode()) // _BYTES_A_TOKEN + 1
        return Reply(self._scrub(text), int(sent), int(answered))

    def _status(self, error: Any, with_schema: bool) -> Exception:
        """What a status other than success means."""
        status, where = int(error.status_code), f"synthesis.endpoints: {self.section.base_url}"
        said = self._scrub(str(error.message))
        shown = " ".join(said.split())[:160]
        if status in (401, 403):
            name = self.section.api_key_env
            state = f"the key in {name}" if self._key != _NO_KEY else f"a request without a key; {name} is not set"
            return UserError(f"{where}: refuses {state} (status {status}); give a key that is valid there")
        if status == 404:
            return UserError(
                f"{where}: does not know the model {self.section.model!r} (status 404){self._known_models()}; "
                "mend model or base_url"
            )
        if status == 402 or (status == 429 and _OUT_OF_MONEY.search(f"{error.code} {said}")):
            return UserError(f"{where}: the account there has no credit left ({shown}); what was answered is kept")
        if status == 429 or status in (408, 409) or status >= 500:
            pause = retry_after(error.response.headers)
            return Trouble("rate limit" if status == 429 else f"status {status}", "wait", pause=pause)
        if _TOO_LONG.search(f"{error.code} {said}"):
            return Trouble("longer than the model's context; lower synthesis.passages.words", "refused")
        if with_schema and self._schema is None:
            return _SchemaRefused()
        with self._lock:
            self._refusals += 1
            if not self._answered_once and self._refusals >= _FIRST_REFUSALS:
                return UserError(
                    f"{where}: refuses every request with status {status} ({shown}); mend the endpoint's settings, as "
                    "model, token_limit, send_seed or synthesis.asking.temperature"
                )
        return Trouble(f"refused with status {status} ({shown})", "refused")

    def _known_models(self) -> str:
        import openai

        try:
            names = sorted(str(model.id) for model in self._client.models.list(timeout=10).data)
        except (openai.OpenAIError, ValueError, AttributeError, TypeError):
            return ""
        return f"; it serves {self._scrub(', '.join(names[:8]))}" if names else ""

    def _scrub(self, text: str) -> str:
        return text if self._key == _NO_KEY else text.replace(self._key, "[key]")


class _SchemaRefused(Exception):
    pass


def retry_after(headers: Any) -> float | None:
    """Seconds that a server asks to wait: `Retry-After` in seconds or as a date (RFC 9110), or `retry-after-ms`."""
    milliseconds, seconds = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        if milliseconds is not None:
            return max(0.0, float(milliseconds) / 1000)
        if seconds is not None:
            return max(0.0, float(seconds))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(seconds).timestamp() - time.time()) if seconds else None
    except (TypeError, ValueError):
        return None


def _read_key(name: str) -> str | None:
    """The key from the environment, or from the mounted secret's file of that name; None where there is none."""
    key = os.environ.get(name, "").strip()
    if not key:
        file = Path(os.environ.get(SECRETS) or SECRETS_MOUNT) / name
        try:
            key = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
    return key or None
