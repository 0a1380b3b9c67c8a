"""Markets that go back to an earlier state, in memory or from a file.

Everything is checked first, so a state that does not fit changes nothing.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paramarket_env.files import expanded, staged
from paramarket_env.learning.data.endowments import Partition
from paramarket_env.market.engine import Engine
from paramarket_env.market.meetings import Meetings
from paramarket_env.market.state import MarketState, Quotes, tree_map
from paramarket_env.validation import require

VERSION = 4
"""The version of saved markets. A change of ``MarketState`` raises it."""


def restore(engine: Engine, state: MarketState) -> None:
    """Give the engine's markets a copy of a state. The state can be restored again.

    Raises ``ValueError`` if it is not a state, or one of other markets: of another number, or with other shapes.
    """
    require(isinstance(state, MarketState), "state", type(state).__name__, "a MarketState")
    found = dict(_shapes(state))
    number, num_markets = found.get("seeds", (None,))[0], engine.num_markets
    require(number == num_markets, "number of markets", number, f"{num_markets}, as in the environment")
    expected = {name: (num_markets, *shape[1:]) for name, shape in _shapes(engine.one)}
    for name in sorted(expected.keys() | found.keys()):
        require(found.get(name) == expected.get(name), f"shape of {name}", found.get(name), f"{expected.get(name)}")
    engine.state = tree_map(lambda tensor: tensor.to(engine.device, copy=True), state)


def _shapes(tree: Any, name: str = "") -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The shapes of all tensors of a state with their dtypes, by name."""
    if isinstance(tree, Tensor):
        yield name, (*tree.shape, tree.dtype)
        return
    require(isinstance(tree, dict) or is_dataclass(tree), name, tree, "a tensor")
    for key, part in (tree if isinstance(tree, dict) else vars(tree)).items():
        yield from _shapes(part, f"{name}.{key}" if name else key)


def save(engine: Engine, path: str | Path) -> None:
    """Write the state of the engine's markets to a file, which replaces an existing file only when it is complete.

    Raises ``ValueError`` if a plug-in of the configuration has no name.
    """
    content = {"version": VERSION, "config": engine.config.to_dict(), "state": asdict(engine.state)}
    # Given a path, torch refuses names that begin with a dot and have no other, as staged names can.
    with staged(path) as new, new.open("wb") as file:
        torch.save(content, file)


def load(engine: Engine, path: str | Path) -> None:
    """Give the engine's markets the state in a file that :func:`save` wrote. The file cannot run code.

    Raises ``ValueError`` if the file is not complete, or is of another version or of other markets.
    """
    path = expanded(path)
    content = _read(path, engine.device)
    version = content.get("version")
    require(version == VERSION, f"version of {str(path)!r}", version, f"{VERSION}")
    if content.get("config") != engine.config.to_dict():
        raise ValueError(f"{str(path)!r} cannot be restored: it is of markets with another configuration")
    try:
        restore(engine, _state(**content["state"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} cannot be restored: {error}") from error


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    data = path.read_bytes()
    try:
        content = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        raise ValueError(f"{str(path)!r} cannot be read: it is not a complete file of saved markets") from error
    require(isinstance(content, dict), f"content of {str(path)!r}", type(content).__name__, "a saved market")
    return dict(content)


def _state(*, partition: dict[str, Any], meetings: dict[str, Any], quotes: dict[str, Any], **parts: Any) -> MarketState:
    """The state with these parts; raises ``TypeError`` if a part is missing or unknown."""
    nested: dict[str, Any] = {"partition": Partition(**partition), "meetings": Meetings(**meetings)}
    return MarketState(**nested, quotes=Quotes(**quotes), **parts)
