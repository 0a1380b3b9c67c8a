"""The derived permutations are those that one writes by hand, and they change nothing that a module computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from paramarket_env.learning.networks import derive as derivation
from paramarket_env.learning.networks.derive import Derived, check, derive
from paramarket_env.learning.networks.network import Axis, Segment
from paramarket_env.learning.networks.units import solve
from tests.learning.networks.small_modules import MODULES, VECTOR, Call, sizes

Spec = dict[str, tuple[Any, ...]]
"""For each parameter and axis: None, the name of a permutation, or a name with how often each unit is repeated."""


def renamed(axes: dict[str, tuple[Axis, ...]]) -> list[Any]:
    """The axes with permutations numbered in the order of their appearance."""
    numbers: dict[str | None, int] = {None: -1}

    def number(segment: Segment) -> tuple[int, int, int]:
        return numbers.setdefault(segment.permutation, len(numbers)), segment.units, segment.repeat

    return [(name, [[number(segment) for segment in axis] for axis in each]) for name, each in axes.items()]


def written(module: nn.Module, spec: Spec) -> dict[str, tuple[Axis, ...]]:
    """The axes that a specification written by hand describes."""
    axes: dict[str, tuple[Axis, ...]] = {}
    for name, parameter in module.named_parameters():
        acting = spec[name] + (None,) * (parameter.dim() - len(spec[name]))
        pairs = [each if isinstance(each, tuple) else (each, 1) for each in acting]
        axes[name] = tuple(
            (Segment(permutation, size // repeat, repeat),)
            for (permutation, repeat), size in zip(pairs, parameter.shape, strict=True)
        )
    return axes


def layer(name: str, outputs: str | None, inputs: Any) -> Spec:
    """The specification of a linear or convolutional layer with a bias."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, units: str) -> Spec:
    return {f"{name}.weight": (units,), f"{name}.bias": (units,)}


def mlp() -> tuple[nn.Module, tuple[int, ...], Spec]:
    widths = (12, 9, 7, 5, 3)
    layers = [each for pair in pairwise(widths) for each in (nn.Linear(*pair), nn.ReLU())]
    spec: Spec = {}
    for number in range(4):
        spec |= layer(f"{2 * number + 1}", f"p{number + 1}" if number < 3 else None, f"p{number}" if number else None)
    return nn.Sequential(nn.Flatten(), *layers[:-1]), (3, 4), spec


def cnn() -> tuple[nn.Module, tuple[int, ...], Spec]:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(12 * 4, 10), nn.ReLU(), nn.Linear(10, 5),
    )  # fmt: skip
    spec = layer("0", "a", None) | layer("3", "b", "a") | layer("7", "c", ("b", 4)) | layer("9", None, "c")
    return module, (3, 14, 14), spec


def resnet20(width: int = 4) -> tuple[nn.Module, tuple[int, ...], Spec]:
    """A wide ResNet of depth 22: three stages of three pre-activation blocks, with GroupNorm(1) and no biases."""

    def block(inputs: int, outputs: int, stride: int, shortcut: bool) -> nn.Module:
        conv = {"kernel_size": 3, "padding": 1, "bias": False}
        layers: dict[str, nn.Module] = {
            "norm1": nn.GroupNorm(1, inputs),
            "conv1": nn.Conv2d(inputs, outputs, stride=stride, **conv),
            "norm2": nn.GroupNorm(1, outputs),
            "conv2": nn.Conv2d(outputs, outputs, **conv),
        }
        if shortcut:
            one = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            layers["shortcut"] = nn.Sequential(one, nn.GroupNorm(1, outputs))

        def forward(self: Any, x: Tensor) -> Tensor:
            out = self.conv2(self.norm2(self.conv1(self.norm1(x).relu())).relu())
            return out + (self.shortcut(x) if shortcut else x)

        return Call(forward, **layers)

    stages, spec, stream = [], {"stem.weight": ("stem", None)}, "stem"
    for stage in range(3):
        outputs = width * 2**stage
        blocks = []
        for number in range(3):
            inputs = outputs if number or not stage else outputs // 2
            name, first = f"stages.{stage}.{number}", number == 0
            blocks.append(block(inputs, outputs, 1 + (first and stage > 0), first))
            spec |= norm(f"{name}.norm1", stream) | {f"{name}.conv1.weight": (f"{name}.inner", stream)}
            stream = f"stage{stage}"
            spec |= norm(f"{name}.norm2", f"{name}.inner") | {f"{name}.conv2.weight": (stream, f"{name}.inner")}
            if first:
                source = f"stage{stage - 1}" if stage else "stem"
                spec |= {f"{name}.shortcut.0.weight": (stream, source)} | norm(f"{name}.shortcut.1", stream)
        stages.append(nn.Sequential(*blocks))
    spec |= norm("norm", stream) | layer("head", None, stream)
    module = Call(
        lambda self, x: self.head(self.norm(self.stages(self.stem(x))).relu().mean((2, 3))),
        stem=nn.Conv2d(3, width, 3, padding=1, bias=False),
        stages=nn.Sequential(*stages),
        norm=nn.GroupNorm(1, outputs),
        head=nn.Linear(outputs, 10),
    )
    return module, (3, 16, 16), spec


def vgg16() -> tuple[nn.Module, tuple[int, ...], Spec]:
    """VGG16 with an eighth of its width, on images of 32 x 32."""
    layers: list[nn.Module] = []
    spec: Spec = {}
    channels, source = 3, None
    for number, width in enumerate([8, 8, 0, 16, 16, 0, 32, 32, 32, 0, 64, 64, 64, 0, 64, 64, 64, 0]):
        if width:
            spec |= layer(str(len(layers)), f"conv{number}", source)
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels, source = width, f"conv{number}"
        else:
            layers.append(nn.MaxPool2d(2))
    layers.append(nn.Flatten())
    for number, width in enumerate([64, 64, 10]):
        target = f"linear{number}" if number < 2 else None
        spec |= layer(str(len(layers)), target, source)
        layers += [nn.Linear(channels, width), nn.ReLU()]
        channels, source = width, target
    return nn.Sequential(*layers[:-1]), (3, 32, 32), spec


@pytest.mark.parametrize("make", [mlp, cnn, resnet20, vgg16])
def test_the_derived_specification_is_the_one_written_by_hand(make: Callable[[], Any]) -> None:
    module, features, spec = make()
    derived = derive(module, features)
    assert renamed(derived.axes) == renamed(written(module, spec))
    assert derived.blocks == ()
    check(module, features, derived)


def test_resnet20_has_the_authors_13_permutations() -> None:
    module, features, _ = resnet20()
    assert len(sizes(derive(module, features))) == 13


@pytest.mark.parametrize("name", MODULES)
def test_all_that_can_be_permuted_is_and_permutations_change_nothing(name: str) -> None:
    module, features, units, blocks = MODULES[name]
    derived = derive(module, features)
    assert sizes(derived) == units
    assert derived.blocks == blocks
    check(module, features, derived, draws=3)


@pytest.mark.parametrize("kind", ["ties", "blocks"])
@pytest.mark.parametrize("name", ["skip", "concatenation meets a plain axis", "gated", "grouped", "fused attention"])
def test_the_check_notices_a_missing_constraint(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, features, *_ = MODULES[name]
    solved: list[Any] = []
    monkeypatch.setattr(derivation, "solve", lambda *arguments: solved.append(arguments) or solve(*arguments))
    whole = derive(module, features)
    (units, tensors), wrong = solved[0], 0
    for missing in range(len(getattr(units, kind))):
        kept = [each for number, each in enumerate(getattr(units, kind)) if number != missing]
        mutated = Derived(*solve(replace(units, **{kind: kept}), tensors))
        if mutated != whole:
            wrong += 1
            with pytest.raises(ValueError, match="by a permutation of its hidden units"):
                check(module, features, mutated, draws=3)
    assert wrong > 0 or not units.blocks


def test_a_permutation_that_is_wrong_is_named_by_its_effect() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    axes = written(module, layer("0", "a", None) | layer("2", None, None))
    with pytest.raises(ValueError, match=r"change of the network's outputs .* permutations=") as error:
        check(module, VECTOR, Derived(axes, ()))
    assert "at most" in str(error.value)


BAD: dict[str, tuple[nn.Module, str]] = {
    "no rule": (
        nn.Sequential(nn.Linear(4, 6), Call(lambda _, x: x.sinc().cumprod(1)), nn.Linear(6, 3)),
        r"aten\.cumprod.* in the module '1' \(Call\) has no rule; give the permutations .*permutations=",
    ),
    "data-dependent": (
        Call(lambda self, x: self.first(x) if x.sum() > 0 else self.first(-x), first=nn.Linear(4, 3)),
        r"in the module 'the network itself' \(Call\) uses the values of its data",
    ),
    "data-dependent shape": (
        Call(lambda self, x: self.first(x)[x[:, 0] > 0], first=nn.Linear(4, 3)), "uses the values of its data",
    ),
    "several outputs": (Call(lambda self, x: (self.first(x), x), first=nn.Linear(4, 3)), "network's output='tuple'"),  # type: ignore[arg-type,return-value]
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_module_that_cannot_be_derived_is_refused_by_name(name: str) -> None:
    module, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        derive(module, VECTOR)


def test_derivation_and_check_leave_the_module_and_the_global_generator_as_they_are() -> None:
    module, features, _ = cnn()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    check(module, features, derive(module, features))
    assert torch.equal(torch.get_rng_state(), state)
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not any(each._forward_pre_hooks for each in module.modules())


@pytest.mark.parametrize("setting", [torch.inference_mode, torch.enable_grad, lambda: torch.device("meta")])
def test_a_derivation_does_not_depend_on_global_settings(setting: Callable[[], Any]) -> None:
    module, features, units, _ = MODULES["vision transformer"]
    with setting():
        derived = derive(module, features)
        check(module, features, derived)
    assert sizes(derived) == units


def test_a_module_on_the_meta_device_has_the_same_permutations() -> None:
    module, features, _ = resnet20()
    assert derive(module.to("meta"), features) == derive(resnet20()[0], features)
    check(module, features, derive(module, features))
