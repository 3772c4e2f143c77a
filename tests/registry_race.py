"""Challengers of known order that several processes bring to the gate at once."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from registry_support import EVALUATION, GATE, evaluation

from nvembed import registry
from nvembed.evaluation import compare
from nvembed.registry.champions import keep_evaluation, kept_key
from nvembed.registry.gate import UNTRAINED, Decision, contend
from nvembed.registry.locks import Held, Lock, file_lock
from nvembed.registry.records import Record, read_records
from nvembed.registry.versions import ADAPTER_TAG, MODEL_TAG, Version
from nvembed.tracking.client import client, experiment_id


@contextlib.contextmanager
def no_lock(name: str) -> Iterator[Held]:
    """The mutation: everybody gets in."""
    yield lambda: None


def slow(lock: Lock, drawn: random.Random, longest: float) -> Lock:
    """The same lock, and between looking who is champion and crowning a random delay, whose end is the change."""

    def enter(name: str) -> AbstractContextManager[Held]:
        @contextlib.contextmanager
        def held_slowly() -> Iterator[Held]:
            with lock(name) as held:

                def check() -> None:
                    time.sleep(drawn.random() * longest)
                    held()

                yield check

        return held_slowly()

    return enter


def enter_challengers(root: Path, gains: list[float]) -> None:
    """Register a version for each gain, with an evaluation as good as the backbone's plus that, kept beside it."""
    mlflow = client()
    mlflow.create_registered_model(GATE.name)
    evaluation(root / "base", "base", 0.0)
    for number, gain in enumerate(gains, 1):
        folder = evaluation(root / str(number) / "own", "stage2", gain, {"adapter": f"adapter {number}"})
        run = mlflow.create_run(experiment_id(mlflow)).info.run_id
        tags = {MODEL_TAG: f"model {number}", ADAPTER_TAG: f"adapter {number}"}
        made = mlflow.create_model_version(GATE.name, source=f"runs:/{run}/model", run_id=run, tags=tags)
        assert int(made.version) == number
        keep_evaluation(version_of(number), kept_key(folder), folder)


def version_of(number: int) -> Version:
    """A version that `enter_challengers` made, as it stands now."""
    found = registry.find_version(GATE.name, f"model {number}")
    assert found is not None
    return found


def judge(root: Path, number: int, against: int | None = None) -> Path:
    """A verdict on a challenger: against the untrained backbone, or against another one as champion."""
    out = root / str(number) / f"against-{against}"
    champion = root / str(against) / "own" if against else None
    compare(EVALUATION, GATE, [root / "base", root / str(number) / "own"], out, champion=champion)
    return out


def bring_one(root: Path, number: int, comparison: Path, lock: Lock = file_lock) -> Decision:
    """A challenger at the gate, with its verdict."""
    own = root / str(number) / "own"
    return contend(GATE, version_of(number), comparison, [root / "base", own], own, lock=lock)


def bring(root: Path, numbers: list[int], lock: Lock, longest: float, seed: int) -> None:
    """What one process does: its share, one after another, each with a verdict from before there was any champion."""
    drawn = random.Random(seed)
    for number in numbers:
        comparison = judge(root, number)
        time.sleep(drawn.random() * longest)
        bring_one(root, number, comparison, slow(lock, drawn, longest))


def race(root: Path, count: int, processes: int, lock: Lock, *, longest: float, seed: int) -> None:
    """`count` challengers in random order, dealt to processes that start together."""
    order = list(range(1, count + 1))
    random.Random(seed).shuffle(order)
    start = multiprocessing.get_context("spawn")
    running = [
        start.Process(target=bring, args=(root, order[at::processes], lock, longest, seed + at))
        for at in range(processes)
    ]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0] * processes


def tell(name: str) -> tuple[Version | None, dict[str, list[Record]]]:
    """The champion, and each version's decisions."""
    present = registry.champion(name)
    return present and present.version, {one.version: read_records(one) for one in registry.list_versions(name)}


def check_history(best: str) -> dict[str, int]:
    """Raise AssertionError unless the best is champion and the records tell how it came about; counts of decisions.

    Every challenger's last word is a promotion or a refusal; whoever was crowned was judged against the one crowned
    just before, so that the crownings are one chain; whoever was refused on the merits was judged against a champion
    that is as good.
    """
    champion, records = tell(GATE.name)
    assert champion is not None and champion.version == best, f"{champion and champion.version} is champion"
    crowned = {number: one for number, all_ in records.items() for one in all_ if one.what == "promoted"}
    behind = {one.against: number for number, one in crowned.items()}
    assert len(behind) == len(crowned), "two were crowned over one champion"
    chain, at = [], UNTRAINED
    while at in behind:
        at = behind[at]
        chain.append(at)
    assert len(chain) == len(crowned) and chain[-1] == best
    assert [int(number) for number in chain] == sorted(map(int, chain)), "each is better than the one before"
    refused = 0
    for number, own in records.items():
        assert own, f"version {number} was neither crowned nor refused"
        assert all(one.who and one.when and one.why for one in own)
        if number not in crowned:
            assert own[-1].what == "refused" and int(own[-1].against) > int(number)
        refused += sum(one.what == "refused" for one in own)
    return {"crowned": len(crowned), "refused": refused}
