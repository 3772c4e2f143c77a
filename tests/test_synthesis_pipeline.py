"""From documents alone to a registered model: `nvembed run` against a server that answers from the passages."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import mlflow
import psutil
import pytest
from chat_server import KEY, ChatServer, chat_server
from pipeline_harness import environment
from synthetic_documents import write_documents


def kill_the_run(server: ChatServer, answered: int) -> None:
    """SIGKILL to `nvembed run` after so many answers."""
    while sum(server.answered.values()) < answered:
        time.sleep(0.01)
    (run,) = psutil.Process().children()
    run.kill()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_documents_alone_end_in_a_registered_model_and_the_key_is_nowhere(tmp_path: Path) -> None:
    from conftest import nvembed

    documents, out = write_documents(tmp_path / "docs", documents=8), tmp_path / "out"
    with chat_server(delay=1.0) as server, environment(PLANTED_KEY=KEY):
        overrides = [
            *(f"data.path={documents}", *server.overrides(price_in=1.0, price_out=4.0)),
            *("synthesis.held_out.min_queries=4", "synthesis.quality.language=false"),
            "synthesis.quality.round_trip.rank=1000",  # the teacher of `tiny` is a model of random numbers
        ]
        settings = [word for override in overrides for word in ("--set", override)]
        command = ("run", "--recipe", "tiny", *settings, "--output-dir", str(out))
        killer = threading.Thread(target=kill_the_run, args=(server, 4))
        killer.start()
        killed = nvembed(*command, cwd=tmp_path)
        killer.join()
        before = server.seen
        server.delay = 0.0
        first = nvembed(*command, cwd=tmp_path)
        asked = server.seen
        again = nvembed(*command, cwd=tmp_path)

    assert killed.returncode < 0 and 4 <= before < 32
    assert first.returncode == 0, first.stdout + first.stderr
    assert again.returncode == 0, again.stdout + again.stderr
    assert "nvembed-tiny version 1" in first.stdout
    assert set(server.asked.values()) == {1}, "what was under way when the run was killed is not asked for twice"
    assert asked == 32 == server.seen, "a run after a finished one asks for nothing"
    client = mlflow.MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "nvembed"]
    names = {name for run in client.search_runs([experiment.experiment_id]) for name in run.data.metrics}
    scores = {name for name in names if name.startswith("eval.")}
    assert scores and all("synthetic-retrieval" in name for name in scores), "whatever is reported is marked"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 50
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert KEY not in first.stdout + first.stderr + again.stdout + again.stderr
