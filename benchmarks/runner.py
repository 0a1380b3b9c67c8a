"""Run independent tasks side by side: in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import TypeVar

import torch

from paramarket_env.market.devices import resolve_device

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Runner:
    """Runs tasks on a device."""

    device: str = "auto"
    ray: str | None = None
    """The address of a Ray cluster. None: processes of this machine."""

    def run(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[Task, Result]]:
        """The tasks with the function's results, in the order in which they end. Starts nothing if there are none."""
        if not tasks:
            return iter(())
        return self._local(function, tasks) if self.ray is None else _on_ray(function, tasks, self.ray)

    def _local(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[Task, Result]]:
        workers = 1 if resolve_device(self.device).type == "cuda" else os.cpu_count() or 1
        pool = ProcessPoolExecutor(min(workers, len(tasks)), get_context("spawn"), _end_with_parent)
        try:
            futures = {pool.submit(on_one_thread, function, task): task for task in tasks}
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _on_ray(function: Callable[[Task], Result], tasks: Sequence[Task], address: str) -> Iterator[tuple[Task, Result]]:
    try:
        import ray  # noqa: PLC0415  # optional
    except ImportError as error:
        raise ImportError("--ray needs Ray: pip install 'paramarket-env[rllib]'") from error
    ray.init(address, ignore_reinit_error=True, log_to_driver=False)
    remote = ray.remote(num_cpus=1)(on_one_thread)
    waiting = {remote.remote(function, task): task for task in tasks}
    while waiting:
        ready, _ = ray.wait(list(waiting))
        for reference in ready:
            yield waiting.pop(reference), ray.get(reference)


def on_one_thread(function: Callable[[Task], Result], task: Task) -> Result:
    """Run a task so that its figures do not depend on the number of cores."""
    torch.set_num_threads(1)
    return function(task)


def _end_with_parent() -> None:
    """End this process when the one that started it is killed."""
    Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
