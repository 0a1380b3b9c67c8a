"""Named, independent streams of random numbers from one seed, for M markets at once.

The streams are counter-based (Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, SC 2011): the k-th
number of a stream is a hash of (seed, name, counters, k). No generator has to be carried, copied or
synchronised: a market draws the same numbers alone or as one of M, on the CPU or a GPU, regardless of earlier
draws. The hash is SplitMix64 (Steele, Lea and Flood, *Fast splittable pseudorandom number generators*,
OOPSLA 2014). No global generator is read or written.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paramarket_env.validation import require


def _signed(value: int) -> int:
    """The int64 with the bits of an unsigned 64-bit integer."""
    return value - 2**64 if value >= 2**63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift(bits: Tensor, places: int) -> Tensor:
    """The logical right shift: ``bits >> places`` with zeros on the left."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _mix(bits: Tensor) -> Tensor:
    """SplitMix64's output function: a bijection of int64 in which one changed bit changes about half of the output."""
    bits = (bits ^ _shift(bits, 30)) * _MIX_1
    bits = (bits ^ _shift(bits, 27)) * _MIX_2
    return bits ^ _shift(bits, 31)


@lru_cache(maxsize=256)
def _name_bits(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


def as_seeds(seeds: int | Iterable[int], num_markets: int, device: torch.device) -> Tensor:
    """The seeds of M markets, int64 ``[M]``: the given ones, or hashes of a single seed and each market's index.

    So two different single seeds have no market in common. Raises ``ValueError`` for another number of seeds than
    markets, and for a seed that is not an integer within [0, 2**63).
    """
    # NumPy's and torch's scalars and arrays become Python's own types.
    given = seeds.tolist() if isinstance(seeds, (np.generic, np.ndarray, Tensor)) else seeds
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        one = torch.tensor(_checked_seed(given), device=device)
        return _shift(stream(one, "market", torch.arange(num_markets, device=device)), 2)
    each = [_checked_seed(seed) for seed in given]
    require(len(each) == num_markets, "seeds", seeds, f"one seed, or one for each of the {num_markets} markets")
    return torch.tensor(each, dtype=torch.int64, device=device)


def _checked_seed(seed: Any) -> int:
    """The seed as a Python integer."""
    value: Any = seed.tolist() if isinstance(seed, (np.generic, np.ndarray, Tensor)) else seed
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
    require(fits, "seed", seed, "an integer within [0, 2**63)")
    return int(value)


def fresh_seed() -> int:
    """A random seed from the operating system."""
    return secrets.randbits(62)


def stream(seeds: Tensor, name: str, *counters: Tensor | int) -> Tensor:
    """The key of a named stream for each seed, int64.

    ``seeds`` is int64 of any shape; ``counters`` (agent, cycle, ...) broadcast against it. Keys with different names
    or counters are independent.
    """
    key = _mix(seeds + _name_bits(name))
    for counter in counters:
        # The product of Python's integers is taken modulo 2**64, as that of int64 is.
        step = (counter + 1) * _GOLDEN
        key = _mix((key ^ _MIX_2) + (step if isinstance(step, Tensor) else _signed(step % 2**64)))
    return key


def next_seeds(seeds: Tensor) -> Tensor:
    """The seeds of the next episodes after those with ``seeds``, int64 within [0, 2**62)."""
    return _shift(stream(seeds, "next episode"), 2)


def bits(key: Tensor, count: int) -> Tensor:
    """``count`` random non-negative int64 (63 bits) from each stream: ``[*key.shape, count]``."""
    counter = torch.arange(1, count + 1, device=key.device)
    return _shift(_mix(key.unsqueeze(-1) + counter * _GOLDEN), 1)


def uniform(key: Tensor, count: int) -> Tensor:
    """``count`` random float64 within [0, 1) from each stream: ``[*key.shape, count]``."""
    return _shift(bits(key, count), 10).to(torch.float64) * 2.0**-53


def permutation(key: Tensor, count: int) -> Tensor:
    """A random permutation of ``0 .. count - 1`` from each stream: int64 ``[*key.shape, count]``."""
    return bits(key, count).argsort(dim=-1, stable=True)
