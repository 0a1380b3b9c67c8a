"""Play independent cells side by side: in processes of this machine, or as tasks of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from threading import Thread

import torch

from benchmarks.paper.cells import Cell, Folders, Result, play_cell
from paramarket_env.market.devices import resolve_device

Played = Iterator[tuple[Cell, Result]]
"""Cells with their results, in the order in which they end."""


@dataclass(frozen=True)
class Runner:
    """Plays cells on a device, with the data in some folders."""

    device: str = "auto"
    folders: Folders = field(default_factory=dict)
    ray: str | None = None
    """The address of a Ray cluster. None: processes of this machine."""

    def play(self, cells: Sequence[Cell]) -> Played:
        """Play the cells. Starts nothing if there are none."""
        if not cells:
            return iter(())
        return self._local(cells) if self.ray is None else self._on_ray(cells, self.ray)

    def _local(self, cells: Sequence[Cell]) -> Played:
        workers = 1 if resolve_device(self.device).type == "cuda" else os.cpu_count() or 1
        pool = ProcessPoolExecutor(min(workers, len(cells)), get_context("spawn"), _end_with_parent)
        try:
            futures = {pool.submit(play_on_one_thread, cell, self.device, self.folders): cell for cell in cells}
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _on_ray(self, cells: Sequence[Cell], address: str) -> Played:
        try:
            import ray  # noqa: PLC0415  # optional
        except ImportError as error:
            raise ImportError("--ray needs Ray: pip install 'paramarket-env[rllib]'") from error
        ray.init(address, ignore_reinit_error=True, log_to_driver=False)
        task = ray.remote(num_cpus=1)(play_on_one_thread)
        waiting = {task.remote(cell, self.device, self.folders): cell for cell in cells}
        while waiting:
            ready, _ = ray.wait(list(waiting))
            for reference in ready:
                yield waiting.pop(reference), ray.get(reference)


def play_on_one_thread(cell: Cell, device: str, folders: Folders) -> Result:
    """Play a cell so that its figures do not depend on the number of cores."""
    torch.set_num_threads(1)
    return play_cell(cell, device, folders)


def _end_with_parent() -> None:
    """End this process when the one that started it is killed."""
    Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
