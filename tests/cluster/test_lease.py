"""The lease against a server that keeps versions as Kubernetes does, through Kubernetes' own client."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nvembed.cluster import lease as module
from nvembed.cluster.lease import LeaseRefused, _Lease, lease
from nvembed.steps.locks import registry_lock


@pytest.fixture
def leases() -> Iterator[Any]:
    """A server of its own for each test."""
    name = "fake_leases"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    with sys.modules[name].serve() as state:
        yield state


def _api(state: Any) -> Any:
    from kubernetes import client

    configuration = client.Configuration(host=state.url)
    configuration.retries = False
    return client.CoordinationV1Api(client.ApiClient(configuration))


def _hold(state: Any, name: str = "a model", duration: int = 30) -> Any:
    return lease(name, duration=duration, poll=0.02, api=_api(state), namespace="nvembed")


def test_of_many_one_at_a_time_is_inside_and_each_gets_in(leases: Any) -> None:
    inside, most, count = 0, 0, 0

    def work() -> None:
        nonlocal inside, most, count
        for _ in range(3):
            with _hold(leases) as held:
                inside += 1
                most = max(most, inside)
                time.sleep(0.02)
                held()
                inside -= 1
                count += 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, count) == (1, 18)
    (kept,) = leases.kept.values()
    assert kept["spec"]["holderIdentity"] == "" and kept["spec"]["leaseTransitions"] == 17
    assert kept["metadata"]["annotations"] == {"nvembed/of": "a model"}


def test_two_models_do_not_wait_for_one_another(leases: Any) -> None:
    with _hold(leases, "one"), _hold(leases, "two"):
        assert len(leases.kept) == 2


def test_a_holder_that_lives_renews_and_is_waited_for(leases: Any) -> None:
    entered = threading.Event()

    def wait() -> None:
        with _hold(leases, duration=2):
            entered.set()

    with _hold(leases, duration=2) as held:
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not entered.wait(4.5), "longer than the lease lasts unrenewed"
        held()
    waiting.join(timeout=10)
    assert entered.is_set()


def test_a_dead_holders_lease_is_taken_once_it_has_run_out(leases: Any) -> None:
    dead = _Lease(_api(leases), "nvembed", next(iter(_names("a model"))), 1, "a model")
    dead._thread = threading.Thread(target=lambda: None)  # it dies: nothing renews
    dead.acquire(0.02)
    dead.check()
    started = time.monotonic()
    with _hold(leases, duration=1) as held:
        assert time.monotonic() - started >= 0.9
        held()
        with pytest.raises(RuntimeError, match="was lost"):
            dead.check()


def _names(name: str) -> set[str]:
    from nvembed.core.digests import digest_text

    return {f"nvembed-{digest_text(name)[:20]}"}


def test_whoever_cannot_renew_is_told_before_another_may_take_it(leases: Any) -> None:
    with _hold(leases, duration=1) as held:
        held()
        leases.status = 500
        time.sleep(0.9)
        with pytest.raises(RuntimeError, match="was lost"):
            held()
        leases.status = 0
        time.sleep(0.5)
        held()  # nobody took it, and the server is back


def test_whoever_was_overwritten_is_told_and_gives_back_nothing(leases: Any) -> None:
    with _hold(leases, duration=1) as held:
        (kept,) = leases.kept.values()
        with leases.lock:
            kept["spec"]["holderIdentity"], kept["metadata"]["resourceVersion"] = "another", "999"
        time.sleep(0.5)
        with pytest.raises(RuntimeError, match="was lost"):
            held()
    assert kept["spec"]["holderIdentity"] == "another"


def test_a_pod_without_the_right_falls_back_to_the_state_volume_and_says_so(
    leases: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    monkeypatch.setenv("NVEMBED_STATE", str(tmp_path))
    monkeypatch.setattr(module, "in_cluster", lambda: True)
    monkeypatch.setattr(module, "_api", lambda: _api(leases))
    monkeypatch.setattr(module, "_NAMESPACE", tmp_path / "namespace")
    monkeypatch.setattr("nvembed.steps.locks.note", told.append)
    (tmp_path / "namespace").write_text("nvembed\n")
    with registry_lock("a model") as held:
        held()
        assert len(leases.kept) == 1 and not (tmp_path / "registry").exists()
    leases.status = 403
    with pytest.raises(LeaseRefused, match="namespace nvembed"), _hold(leases):
        pass
    with registry_lock("a model") as held:
        held()
        assert list((tmp_path / "registry").glob("*/.lock"))
    assert len(told) == 1 and "manifests/60-service-account.yaml" in told[0]
