"""Parameter sets: the parts of a network that are sold as one good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from paramarket_env.learning.heads import head
from paramarket_env.learning.networks.network import Network
from paramarket_env.plugins import Registry
from paramarket_env.validation import INT64_MAX, configuration, require


@runtime_checkable
class ParameterSetRule(Protocol):
    """A plug-in that groups the layers of a network into parameter sets."""

    def __call__(self, network: Network) -> dict[str, list[str]]:
        """The layers of each parameter set, by the name of the set."""


PARAMETER_SETS: Registry[ParameterSetRule] = Registry(
    "parameter set rule", ParameterSetRule, attribute="parameter_sets"
)


def _layers(network: Network) -> list[str]:
    return list(dict.fromkeys(spec.layer for spec in network.parameters if not spec.statistic))


@PARAMETER_SETS.register
def full(network: Network) -> dict[str, list[str]]:
    """The whole network as one good."""
    return {"full": _layers(network)}


@PARAMETER_SETS.register
def layers(network: Network) -> dict[str, list[str]]:
    """Each layer as a good of its own."""
    return {layer: [layer] for layer in _layers(network)}


@PARAMETER_SETS.register
def prefixes(network: Network) -> dict[str, list[str]]:
    """The first layer, the first two layers, and so on up to the whole network."""
    names = _layers(network)
    return {f"to_{last}": names[: names.index(last) + 1] for last in names}


@PARAMETER_SETS.register
def trunk(network: Network) -> dict[str, list[str]]:
    """All layers but the head as one good, which agents with different tasks can trade."""
    return {"trunk": [layer for layer in _layers(network) if layer != head(network)]}


@PARAMETER_SETS.register
@configuration
class Span:
    """A span of consecutive layers as one good: a layer, a prefix or a suffix."""

    first: Annotated[int, Field(ge=0, le=INT64_MAX)] = 0
    """Index of the span's first layer, from 0 on."""
    last: Annotated[int, Field(ge=0, le=INT64_MAX)] | None = None
    """Index of its last layer. None: the network's last layer."""

    def __post_init__(self) -> None:
        ordered = self.last is None or self.first <= self.last
        require(ordered, "span.last", self.last, f"None, or at least first={self.first}")

    def __call__(self, network: Network) -> dict[str, list[str]]:
        """See :meth:`ParameterSetRule.__call__`; raises ``ValueError`` if the network has fewer layers."""
        names = _layers(network)
        last = len(names) - 1 if self.last is None else self.last
        allowed = f"a span within the network's {len(names)} layers"
        require(self.first <= last < len(names), "broker.parameter_sets", self, allowed)
        chosen = names[self.first : last + 1]
        return {"_to_".join(dict.fromkeys((chosen[0], chosen[-1]))): chosen}


@dataclass(frozen=True)
class ParameterSets:
    """The K parameter sets that are for sale."""

    names: tuple[str, ...]
    masks: Tensor
    """bool ``[K, P]``: whether each set contains each parameter of the flat vector. None has running statistics."""
    whole: tuple[bool, ...]
    """Whether each set is the whole flat vector, which it never is for networks with running statistics."""


def layers_of_sets(rule: ParameterSetRule, network: Network, *, head_for_sale: bool = True) -> dict[str, list[str]]:
    """The layers of each parameter set of a rule. Sets with the head are left out unless it is for sale.

    Raises ``ValueError`` if no set is left, and for a set without layers or with an unknown layer.
    """
    goods = rule(network)
    require(isinstance(goods, dict) and bool(goods), "parameter sets", goods, "a dict with at least one set")
    for good, members in goods.items():
        require(bool(members), f"parameter set {good}", members, "at least one layer")
        known = _layers(network)
        require(set(members) <= set(known), f"parameter set {good}", members, f"a list of layers among {known}")
    if head_for_sale:
        return goods
    kept = {good: members for good, members in goods.items() if head(network) not in members}
    allowed = f"a rule with sets without the head, {head(network)!r}, since tasks differ: trunk, layers or prefixes"
    require(bool(kept), "broker.parameter_sets", goods, allowed)
    return kept


def parameter_sets(
    rule: ParameterSetRule, network: Network, device: torch.device, *, head_for_sale: bool = True
) -> ParameterSets:
    """The parameter sets of a rule; see :func:`layers_of_sets`, also for its errors."""
    goods = layers_of_sets(rule, network, head_for_sale=head_for_sale)
    sizes = torch.tensor([spec.size for spec in network.parameters], device="cpu")
    specs = network.parameters
    contained = [[spec.layer in members and not spec.statistic for spec in specs] for members in goods.values()]
    chosen = torch.tensor(contained, device="cpu")
    whole = tuple(bool(members.all()) for members in chosen)
    return ParameterSets(tuple(goods), chosen.repeat_interleave(sizes, dim=1).to(device), whole)
