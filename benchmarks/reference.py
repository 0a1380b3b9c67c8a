"""A plain, slow market of ordinary ``torch.nn`` modules: one market, one agent and one pair at a time.

Its loops compute what ``paramarket_env`` computes for thousands of markets at once. The two share only the code for
random orders: of the samples in a pass, and of the layers in weight matching. Tests compare their results; the
throughput benchmark compares their speed.

Networks are multilayer perceptrons, modules of linear layers with ReLU between them. Modules of any other architecture
play, too, but the environment's own aligner aligns them, one pair at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from paramarket_env.learning.activations import SAMPLES
from paramarket_env.learning.alignment.permutations import identity, permute
from paramarket_env.learning.networks.mlp import MLPNetwork
from paramarket_env.learning.training import SGD, Adam, Optimizer, shuffled
from paramarket_env.market.engine import Engine
from paramarket_env.seeding import permutation, stream

TOLERANCE = 1e-12
"""A permutation replaces another only if its inner product is larger by more than this."""

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]


@dataclass(frozen=True)
class Samples:
    """Labelled samples in memory."""

    inputs: Tensor
    """float32 ``[n, *features]``."""
    labels: Tensor
    """int64 ``[n]``."""


def train(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    samples: Samples,
    order: Tensor,
    batch_size: int,
    local_steps: int | None = None,
) -> None:
    """One pass over the samples that ``order`` lists, or ``local_steps`` minibatches of it; the last may be short."""
    for start in list(range(0, len(order), batch_size))[:local_steps]:
        batch = order[start : start + batch_size]
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(module(samples.inputs[batch]), samples.labels[batch]))
        optimizer.step()


@torch.no_grad()
def evaluate(module: nn.Module, samples: Samples) -> tuple[float, float]:
    """The mean loss in nats, and the accuracy."""
    logits = module(samples.inputs)
    losses = F.cross_entropy(logits, samples.labels, reduction="none")
    correct = (logits.argmax(1) == samples.labels).double()
    return losses.double().mean().item(), correct.mean().item()


def linear_layers(module: nn.Module) -> list[nn.Linear]:
    """The linear layers, first to last."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


@torch.no_grad()
def align(buyer: nn.Module, seller: nn.Module, start: list[Tensor] | None = None) -> list[Tensor]:
    """Weight matching: for each hidden layer, the seller's unit in the place of each of the buyer's units.

    The search begins at ``start`` if that is better than the identity. Each sweep visits the layers in a new random
    order. The search ends after a sweep without improvement.
    """
    mine, theirs = ([_wide(layer) for layer in linear_layers(module)] for module in (buyer, seller))
    orders = [torch.arange(layer.out_features) for layer in linear_layers(seller)]  # the logits keep their order
    if start is not None:
        warm = [*start, orders[-1]]
        if _inner_product(mine, theirs, warm) > _inner_product(mine, theirs, orders):
            orders = warm
    for sweep in count():
        improved = False
        for layer in permutation(stream(torch.tensor(0), "weight matching", sweep), len(orders) - 1).tolist():
            similarity = _similarity(mine, theirs, orders, layer)
            better = torch.from_numpy(linear_sum_assignment(similarity.numpy(), maximize=True)[1])
            units = torch.arange(len(better))
            if similarity[units, better].sum() - similarity[units, orders[layer]].sum() > TOLERANCE:
                orders[layer] = better
                improved = True
        if not improved:
            break
    return orders[:-1]


def _wide(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """The weight and the bias as float64."""
    return layer.weight.double(), layer.bias.double()


def _inner_product(
    mine: list[tuple[Tensor, Tensor]], theirs: list[tuple[Tensor, Tensor]], orders: list[Tensor]
) -> float:
    """The inner product of the buyer's network and the seller's, with the seller's units in these orders."""
    total, before = 0.0, torch.arange(mine[0][0].shape[1])
    for (weight, bias), (other, other_bias), order in zip(mine, theirs, orders, strict=True):
        total += float((weight * other[order][:, before]).sum() + (bias * other_bias[order]).sum())
        before = order
    return total


def _similarity(
    mine: list[tuple[Tensor, Tensor]], theirs: list[tuple[Tensor, Tensor]], orders: list[Tensor], layer: int
) -> Tensor:
    """The similarity of the buyer's units and the seller's units in a hidden layer, ``[units, units]``.

    It is the inner product of their incoming weights, biases and outgoing weights, with the seller's other layers in
    their current order.
    """
    weight, bias = theirs[layer]
    after = theirs[layer + 1][0][orders[layer + 1]]
    if layer > 0:
        weight = weight[:, orders[layer - 1]]
    return mine[layer][0] @ weight.T + torch.outer(mine[layer][1], bias) + mine[layer + 1][0].T @ after


@torch.no_grad()
def reorder(module: nn.Module, orders: Sequence[Tensor]) -> nn.Module:
    """A copy with the units of each hidden layer in another order. It computes the same outputs."""
    result = copy.deepcopy(module)
    layers = linear_layers(result)
    for layer, following, order in zip(layers[:-1], layers[1:], orders, strict=True):
        layer.weight.copy_(layer.weight[order])
        layer.bias.copy_(layer.bias[order])
        following.weight.copy_(following.weight[:, order])
    return result


@torch.no_grad()
def merge(
    buyer: nn.Module,
    seller: nn.Module,
    weight: float,
    into: nn.Module,
    names: Collection[str] | None = None,
) -> None:
    """Set ``into`` to (1 - weight) * buyer + weight * seller on tensors ``names`` (None: all), else to the buyer."""
    mine, theirs = buyer.state_dict(), seller.state_dict()
    for name, tensor in into.state_dict().items():
        if names is None or name in names:
            tensor.copy_((1 - weight) * mine[name] + weight * theirs[name])
        else:
            tensor.copy_(mine[name])


@dataclass(frozen=True)
class Quote:
    """The best merge of those that were tried."""

    weight: float
    loss: float
    network: nn.Module


def try_grid(buyer: nn.Module, seller: nn.Module, weights: Sequence[float], validation: Samples) -> Quote:
    """Merge with an aligned seller at each weight, and keep the lowest loss. Ties go to the first weight."""
    merged, losses = copy.deepcopy(buyer), []
    for weight in weights:
        merge(buyer, seller, weight, into=merged)
        losses.append(evaluate(merged, validation)[0])
    best = min(range(len(weights)), key=losses.__getitem__)
    merge(buyer, seller, weights[best], into=merged)
    return Quote(weights[best], losses[best], merged)


@dataclass(frozen=True)
class Matching:
    """The rule that matches the units of two modules."""

    align: Callable[[nn.Module, nn.Module, list[Tensor] | None], list[Tensor]]
    """The seller's units in the buyer's order, from the two modules and the last match."""
    reorder: Callable[[nn.Module, Sequence[Tensor]], nn.Module]
    """A copy of a module with its units in this order."""


@dataclass
class PlainMarket:
    """One market with free trade in whole networks and without money. Its loops do the work of an engine's step."""

    networks: list[nn.Module]
    make_optimizer: MakeOptimizer
    samples: Samples
    validation: Samples
    batch_size: int
    merge_weights: Sequence[float]
    matching: Matching
    local_steps: int | None = None
    losses: list[float] = field(init=False)
    """Each agent's validation loss."""
    quotes: dict[tuple[int, int], Quote] = field(init=False)
    """The broker's quote for each (buyer, seller)."""
    matches: dict[tuple[int, int], list[Tensor]] = field(default_factory=dict)
    """The last alignment of each (buyer, seller), where the next search begins."""

    def __post_init__(self) -> None:
        self.optimizers = [self.make_optimizer(network) for network in self.networks]
        self._measure()

    def step(self, sellers: dict[int, int], orders: dict[int, Tensor]) -> None:
        """Buyers get their quoted merges with ``sellers``; agents train in ``orders``; the broker quotes anew."""
        for buyer, seller in sellers.items():
            self.networks[buyer] = copy.deepcopy(self.quotes[buyer, seller].network)
            self.optimizers[buyer] = self.make_optimizer(self.networks[buyer])
        for agent, order in orders.items():
            train(self.networks[agent], self.optimizers[agent], self.samples, order, self.batch_size, self.local_steps)
        self._measure()

    def _measure(self) -> None:
        self.losses = [evaluate(network, self.validation)[0] for network in self.networks]
        self.quotes = {
            (i, j): self._quote(i, j) for i in range(len(self.networks)) for j in range(len(self.networks)) if i != j
        }

    def _quote(self, i: int, j: int) -> Quote:
        buyer, seller = self.networks[i], self.networks[j]
        self.matches[i, j] = self.matching.align(buyer, seller, self.matches.get((i, j)))
        aligned = self.matching.reorder(seller, self.matches[i, j])
        return try_grid(buyer, aligned, self.merge_weights, self.validation)


def make_optimizer_of(optimizer: Optimizer) -> MakeOptimizer:
    """torch's optimizer for one of ours."""
    if isinstance(optimizer, Adam):
        return lambda module: torch.optim.Adam(module.parameters(), lr=optimizer.lr)
    assert isinstance(optimizer, SGD)
    return lambda module: torch.optim.SGD(module.parameters(), lr=optimizer.lr, momentum=optimizer.momentum)


def plain_market(engine: Engine, market: int) -> PlainMarket:
    """A market of an engine as a plain one: the same networks, data and settings, with fresh quotes.

    All agents have one task and the training settings of the first.
    """
    dataset, config, training = engine.dataset, engine.config, engine.config.trainings[0]
    validation = engine.state.partition.validation[market, 0]
    return PlainMarket(
        networks=[engine.network.module(vector) for vector in engine.state.parameters[market]],
        make_optimizer=make_optimizer_of(training.optimizer),
        samples=Samples(dataset.inputs, dataset.labels),
        validation=Samples(dataset.inputs[validation], dataset.labels[validation]),
        batch_size=training.batch_size,
        merge_weights=config.broker.merger.weights,
        local_steps=training.local_steps,
        matching=Matching(align, reorder)
        if isinstance(engine.network, MLPNetwork)
        else matching_of(engine, validation),
    )


def matching_of(engine: Engine, validation: Tensor) -> Matching:
    """The matching by the engine's aligner, whose only order is that of all units, int64 ``[1, H]``.

    ``validation``, int64 ``[n]``, are the broker's samples, of which some are for the aligner.
    """
    network, aligner = engine.network, engine.config.broker.aligner
    samples = partial(engine.dataset.take, validation[None, :SAMPLES])

    @torch.no_grad()
    def aligned(buyer: nn.Module, seller: nn.Module, start: list[Tensor] | None) -> list[Tensor]:
        orders = identity(network, engine.device).unsqueeze(0) if start is None else start[0]
        return [aligner(network, _flat(buyer), _flat(seller), orders, samples)]

    @torch.no_grad()
    def reordered(module: nn.Module, orders: Sequence[Tensor]) -> nn.Module:
        return network.module(permute(network, _flat(module), orders[0])[0])

    return Matching(aligned, reordered)


def _flat(module: nn.Module) -> Tensor:
    """The parameters as one row, ``[1, P]``."""
    return nn.utils.parameters_to_vector(module.parameters()).unsqueeze(0)


def coming_passes(engine: Engine, market: int, agents: Sequence[int]) -> dict[int, Tensor]:
    """The samples of each agent's next pass, in the engine's order: int64 ``[n]``."""
    state, orders = engine.state, {}
    for agent in agents:
        key = stream(state.seeds[market], "shuffle", agent, state.passes[market, agent]).view(1)
        size = int(state.partition.sizes[market, agent])
        orders[agent] = shuffled(state.partition.endowments[market, agent].view(1, -1), size, key)[0]
    return orders
