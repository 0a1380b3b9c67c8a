"""Play the paper's experiments and write their pages: ``python -m benchmarks.paper NAME``, or ``all``.

Every cell, which is an arm in a market with all its seeds, is kept as soon as it is played, in the folder ``cells``. A
later run plays only what is missing and makes the same pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import track

from benchmarks.paper.cells import Cell, Folders, play_cell
from benchmarks.paper.experiments import EXPERIMENTS
from benchmarks.paper.page import Page, index
from benchmarks.paper.pictures import draw
from benchmarks.paper.store import Store
from benchmarks.runner import Runner
from paramarket_baselines.evaluation.display import new_console
from paramarket_baselines.evaluation.results import write_picture
from paramarket_env.files import claimed, expanded, write_file
from paramarket_env.market.devices import resolve_device
from paramarket_env.validation import lookup, require

ALL = "all"
SEEDS, QUICK_SEEDS = 10, 5


@dataclass(frozen=True)
class Paper:
    """Play an experiment of the paper, or all, and make the pages."""

    name: tyro.conf.Positional[str]
    """An experiment, or `all`."""
    seeds: int | None = None
    """Number of seeds, from 0 on. None: 10, or 5 with `--quick`."""
    quick: bool = False
    """Play fewer, smaller and shorter markets; their pages lie in the subfolder `quick`."""
    ray: str | None = None
    """Address of a Ray cluster to play on, such as `auto`. None: this machine."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""
    data_dir: str | None = None
    """Folder with the files of Fashion-MNIST. None: torchvision's download."""
    cifar_dir: str | None = None
    """Folder with `cifar-10-batches-py`. None: torchvision's download."""
    out: Path = Path("benchmarks/results/paper")
    """Folder for the pages and the cells."""

    def __post_init__(self) -> None:
        require(self.seeds is None or self.seeds >= 2, "seeds", self.seeds, "an integer >= 2")
        lookup({ALL: None, **EXPERIMENTS}, self.name, "experiment")

    @property
    def names(self) -> list[str]:
        """The experiments to play."""
        return list(EXPERIMENTS) if self.name == ALL else [self.name]

    @property
    def num_seeds(self) -> int:
        """The number of seeds."""
        return self.seeds or (QUICK_SEEDS if self.quick else SEEDS)

    @property
    def folder(self) -> Path:
        """The folder of the pages."""
        return self.out / "quick" if self.quick else self.out

    @property
    def folders(self) -> Folders:
        """The folders of the datasets."""
        given = {"FashionMNIST": self.data_dir, "CIFAR10": self.cifar_dir}
        return {name: folder for name, folder in given.items() if folder}

    def command(self, name: str) -> str:
        """The command that makes the page of an experiment, without what leaves its figures unchanged."""
        quick = " --quick" if self.quick else ""
        return f"python -m benchmarks.paper {name} --seeds {self.num_seeds}{quick}"


Offered = dict[Cell, str]
"""The cells of an experiment, each with the reason why it cannot be played, or an empty text."""


def offered(options: Paper, name: str) -> Offered:
    """The cells of an experiment, before any is played."""
    experiment = EXPERIMENTS[name]
    cells = experiment.cells(options.num_seeds, quick=options.quick)
    if experiment.needs_gpu and not options.quick and resolve_device(options.device).type == "cpu":
        return dict.fromkeys(cells, "the full run needs a GPU")
    return {cell: cell.refusal() for cell in cells}


def fill(store: Store, offers: Sequence[Offered], options: Paper, console: Console) -> None:
    """Play the cells that are missing and keep their results; those without data get a reason."""
    playable = [cell for offer in offers for cell, why in offer.items() if not why]
    missing, holes = store.missing(playable), {}
    play = partial(play_cell, device=options.device, folders=options.folders)
    played = Runner(options.device, options.ray).run(play, missing)
    for cell, result in track(played, "cells", total=len(missing), console=console):
        if "hole" in result:
            holes[cell.hash] = result["hole"]
        else:
            store.write(cell, result)
    for offer in offers:
        offer.update({cell: why or holes.get(cell.hash, "") for cell, why in offer.items()})


def page_of(options: Paper, name: str, offer: Offered, store: Store) -> Page:
    """The page of an experiment, from the cells that are kept."""
    table = store.table([cell for cell, why in offer.items() if not why])
    holes = {cell.label: why for cell, why in offer.items() if why}
    return Page(name, EXPERIMENTS[name], table, options.command(name), options.quick, holes)


def write_page(folder: Path, page: Page) -> None:
    """Write the table, the picture and the page of an experiment."""
    write_file(folder / f"{page.name}.csv", page.table.to_csv(index=False))
    write_picture(folder / f"{page.name}.png", draw(page))
    write_file(folder / f"{page.name}.md", page.markdown())


def make(options: Paper, console: Console) -> None:
    """Play what is missing, and make the pages of all experiments that have figures."""
    store = Store(options.out / "cells")
    offers = {name: offered(options, name) for name in options.names}
    fill(store, list(offers.values()), options, console)
    pages = [page_of(options, name, offer, store) for name, offer in offers.items()]
    for page in pages:
        if page.filled:
            write_page(options.folder, page)
        console.print(page.name, *page.sentences, *page.missing, sep="\n  ")
    if options.name == ALL:
        write_file(options.folder / "index.md", index(pages))


def main(arguments: Sequence[str] | None = None) -> None:
    """Play and write."""
    given = tyro.cli(Paper, args=arguments)
    options = replace(given, out=expanded(given.out))
    with claimed(options.folder, existing=True), claimed(options.out / "cells", existing=True):
        make(options, new_console())


if __name__ == "__main__":
    main()
