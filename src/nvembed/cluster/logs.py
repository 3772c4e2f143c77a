"""Every rank's log, brought to the task that waits: one thread a pod, which takes up again where a connection broke."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from nvembed.cluster.api import Cluster, passing, status_of

logger = logging.getLogger(__name__)
TAIL = 30
_READ_TIMEOUT = 60.0  # a silent stream is opened anew; a rank may well be silent for longer
_PAUSE = 1.0


class PodLog:
    """One container's log, line by line, from a thread of its own.

    Args:
        cluster: whose pod it is.
        pod, container: whose log.
        tell: gets each line once, without its time.
        container_ended: asked when a stream ends: whether nothing more will come.
    """

    def __init__(
        self,
        cluster: Cluster,
        pod: str,
        container: str,
        tell: Callable[[str], None],
        container_ended: Callable[[], bool],
        *,
        pause: float = _PAUSE,
    ) -> None:
        self.pod, self.tail = pod, deque[str](maxlen=TAIL)
        self._cluster, self._container, self._tell, self._ended = cluster, container, tell, container_ended
        self._pause, self._stop = pause, threading.Event()
        self._seen, self._seen_lines = "", set[str]()  # the newest time, and the lines that have it
        self._thread = threading.Thread(target=self._run, name=f"log-{pod}", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def finish(self, seconds: float) -> None:
        """Wait for what is left of an ended pod's log, so long at most."""
        self._thread.join(seconds)
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            ended = self._ended()  # asked before reading: what is read after the end is all there is
            try:
                self._read()
                if ended:
                    return
            except Exception as error:  # noqa: BLE001 - a log that cannot be read ends no training
                status = status_of(error)
                if status == 404:
                    return  # the pod is gone, its log with it
                if status is not None and status != 400 and passing(error) is None:
                    logger.warning("the log of %s cannot be read: %s", self.pod, error)
                    return
                if status is None and passing(error) is None:
                    logger.debug("the log of %s broke off: %s", self.pod, error)
            self._stop.wait(self._pause)  # 400: the container has not started yet

    def _read(self) -> None:
        options: dict[str, Any] = {}
        if self._seen:
            options["since_seconds"] = max(1, round(_age(self._seen)) + 2)
        answer = self._cluster.core.read_namespaced_pod_log(
            self.pod,
            self._cluster.namespace,
            container=self._container,
            follow=True,
            timestamps=True,
            _preload_content=False,
            _request_timeout=(5, _READ_TIMEOUT),
            **options,
        )
        rest = b""
        try:
            for chunk in answer.stream(4096):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._take(line.decode("utf-8", "replace"))
                if self._stop.is_set():
                    return
        finally:
            answer.release_conn()
            answer.close()
        # A line without its end is told only when the stream ended in order: a broken one brings it again, whole.
        if rest:
            self._take(rest.decode("utf-8", "replace"))

    def _take(self, line: str) -> None:
        moment, _, text = line.partition(" ")
        moment = _sortable(moment)
        if moment < self._seen or (moment == self._seen and text in self._seen_lines):
            return
        if moment > self._seen:
            self._seen, self._seen_lines = moment, set()
        self._seen_lines.add(text)
        self.tail.append(text)
        self._tell(text)


def _sortable(moment: str) -> str:
    """A time of the log (RFC 3339, up to nine digits behind the point) in a form that sorts as text."""
    whole, _, rest = moment.removesuffix("Z").partition(".")
    return f"{whole}.{rest:0<9}"


def _age(moment: str) -> float:
    try:
        then = datetime.fromisoformat(moment.partition(".")[0]).replace(tzinfo=UTC)
    except ValueError:
        return 3600.0
    return time.time() - then.timestamp()
