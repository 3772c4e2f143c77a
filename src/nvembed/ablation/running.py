"""The order of the work: every variant's rates on dev, then the picked ones on test, several cells side by side."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from nvembed.ablation.cells import Work, begin_worker, do_work, drop_adapters, work_of
from nvembed.ablation.judging import judge, mean_score, pick
from nvembed.ablation.plan import Arm, Cell, Plan
from nvembed.ablation.shared import Shared
from nvembed.ablation.timing import estimate, measure, unmeasured
from nvembed.core.errors import UserError
from nvembed.core.progress import Progress, note

Task = tuple[Work, str]


class Runner:
    """Does a plan's cells and judges them.

    Args:
        plan: what `make_plan` made.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.shared = Shared(plan.recipe)
        self.at_once, self.threads = _share_cores(plan)
        self._works: dict[tuple[str, str, float, int], Work] = {}

    def work(self, arm: Arm, factor: float, seed: int) -> Work:
        """A cell's work."""
        key = (arm.family, arm.variant, factor, seed)
        if key not in self._works:
            self._works[key] = work_of(Cell(arm, factor, seed), self.shared, self.plan.tasks[arm.family], self.threads)
        return self._works[key]

    def grid(self) -> list[Task]:
        """Each variant's rates with the first seed, on dev; none where there is one rate only."""
        if len(self.plan.factors) == 1:
            return []
        first = self.plan.seeds[0]
        return _once((self.work(arm, f, first), "dev") for arm in self.plan.all_arms() for f in self.plan.factors)

    def final(self, picks: Mapping[tuple[str, str], float]) -> list[Task]:
        """The picked rates with every seed, on test."""
        arms = [*self.plan.all_arms()]
        return _once(
            (self.work(arm, picks[arm.family, arm.variant], seed), "test") for seed in self.plan.seeds for arm in arms
        )

    def dev_scores(self, arm: Arm) -> dict[float, dict[str, float]]:
        """Scores on dev by factor and task, of the factors that were measured."""
        works = {factor: self.work(arm, factor, self.plan.seeds[0]) for factor in self.plan.factors}
        return {factor: work.scores("dev") for factor, work in works.items() if work.done("dev")}

    def picks(self) -> dict[tuple[str, str], float]:
        """The factor that each variant does best with on dev; the test set has no say."""
        if len(self.plan.factors) == 1:
            return {(arm.family, arm.variant): self.plan.factors[0] for arm in self.plan.all_arms()}
        return {(arm.family, arm.variant): pick(self.dev_scores(arm)) for arm in self.plan.all_arms()}

    def seconds_left(self) -> float:
        """About what the missing cells take, side by side, by the measurements that are there."""
        seconds, trained = 0.0, set[Path]()
        for work, split in self._all_tasks():
            seconds += estimate(work, split, trained=work.folder in trained)
            trained.add(work.folder)
        return seconds / self.at_once

    def missing(self) -> tuple[int, int]:
        """Measurements (a cell on a split) that are missing, and how many there are in all."""
        tasks = self._all_tasks()
        return sum(not work.done(split) for work, split in tasks), len(tasks)

    def _all_tasks(self) -> list[Task]:
        """Grid and final tasks; where nothing is picked yet the lowest factor stands for the picked one."""
        known = {}
        for arm in self.plan.all_arms():
            dev = self.dev_scores(arm)
            known[arm.family, arm.variant] = pick(dev) if len(dev) == len(self.plan.factors) else self.plan.factors[0]
        return [*self.grid(), *self.final(known)]

    def measure(self) -> None:
        """Measure a few steps of each kind of training that has no measurement yet."""
        if wanted := unmeasured(work for work, split in self._all_tasks() if not work.done(split)):
            note(f"measuring {len(wanted)} kinds of training, to say how long this will take")
            with self._pool() as pool:
                for future in [pool.submit(measure, work) for work in wanted]:
                    future.result()

    def run(self, out: Path) -> dict[str, Any]:
        """Do what is missing, judge, and write the ablation folder `out`; what `results.json` holds.

        Raises:
            UserError: something in a cell that the user has to mend.
            RuntimeError: a cell failed; the others' results are kept.
        """
        from nvembed.ablation.report import write_ablation

        started = time.monotonic()
        missing, total = self.missing()
        progress = Progress("cells", total)
        progress.update(total - missing)
        if missing:
            with self._pool() as pool:
                self._do(pool, self.grid(), progress)
                self._do(pool, self.final(self.picks()), progress)
        content = judge(self)
        content["seconds_this_run"] = round(time.monotonic() - started, 1)
        write_ablation(self.plan, content, out)
        for work in self._works.values():
            drop_adapters(work)
        return content

    def _do(self, pool: ProcessPoolExecutor, tasks: Sequence[Task], progress: Progress) -> None:
        """Do the tasks that are not done, the longest first; the first failure ends all."""
        todo = sorted((task for task in tasks if not task[0].done(task[1])), key=lambda task: -estimate(*task))
        names = {pool.submit(do_work, work, split): (work, split) for work, split in todo}
        waiting: set[Future[None]] = set(names)
        while waiting:
            ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in ended:
                work, split = names[future]
                try:
                    future.result()
                except UserError as error:
                    raise UserError(f"{work.name}: {error}") from error
                except Exception as error:
                    raise RuntimeError(f"{work.name}: {error}") from error
                note(f"{work.name}: {split} {mean_score(work.scores(split)):.3f}")
                progress.update(progress.done + 1, f"about {self.seconds_left() / 60:.0f} min left")

    @contextlib.contextmanager
    def _pool(self) -> Iterator[ProcessPoolExecutor]:
        """Worker processes that live for many cells; they end with us, also when we are interrupted."""
        os.environ["OMP_NUM_THREADS"] = str(self.threads)
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
        pool = ProcessPoolExecutor(
            self.at_once, multiprocessing.get_context("spawn"), initializer=begin_worker, initargs=(self.threads,)
        )
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()  # a rank under way writes its checkpoint first (`training.launch`)
            raise
        pool.shutdown()


def _share_cores(plan: Plan) -> tuple[int, int]:
    """Cells at once, and threads for each: one core a cell on a CPU, where two trainings of one thread each do more
    than one of two, and starting up takes one thread only."""
    from nvembed.training.launch import cpu_cores

    section, resources = plan.recipe.ablation, plan.recipe.resources
    assert section is not None
    ranks = resources.processes
    cores = max(1, cpu_cores() // ranks)
    at_once = section.at_once or (cores if _on_cpu(resources.device) else 1)
    return at_once, resources.threads or max(1, cores // at_once)


def _on_cpu(device: str) -> bool:
    import torch

    return device == "cpu" or not torch.cuda.is_available()


def _once(tasks: Iterable[Task]) -> list[Task]:
    """Families share cells: equal work is done once."""
    found: dict[tuple[Path, str], Task] = {}
    for work, split in tasks:
        found.setdefault((work.folder, split), (work, split))
    return list(found.values())
