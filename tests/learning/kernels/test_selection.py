"""The choice of a back end by name."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from paramarket_env.learning.kernels import build, selection

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_an_unknown_name_is_refused_with_those_that_exist() -> None:
    message = "PARAMARKET_KERNELS='fast' is not allowed: it must be one of auto, torch, compiled, triton"
    with selection.forced("fast"), pytest.raises(ValueError, match=message):
        selection.backend(CPU)


@pytest.mark.parametrize(
    ("name", "missing"),
    [("compiled", r"a working C\+\+ compiler \(g\+\+, clang\+\+ or c\+\+\)"), ("triton", "the package triton")],
)
def test_a_back_end_that_is_missing_is_an_error_only_if_it_was_asked_for(
    name: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "library", lambda: None)
    monkeypatch.setattr(selection, "_missing_package", lambda: "the package triton")
    with selection.forced(name), pytest.raises(ValueError, match=f"'{name}' is not available: {missing} is missing"):
        selection.backend(CPU)
    with selection.forced("auto"):
        assert selection.backend(CPU) == selection.backend(CUDA) == "torch"


def test_auto_takes_the_back_end_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "library", object)
    monkeypatch.setattr(selection, "_missing_package", lambda: None)
    with selection.forced("auto"):
        assert (selection.backend(CPU), selection.backend(CUDA)) == ("compiled", "triton")


def test_forcing_ends_with_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(selection.VARIABLE, raising=False)
    with selection.forced("torch"):
        with selection.forced("auto"):
            assert os.environ[selection.VARIABLE] == "auto"
        assert selection.backend(CPU) == "torch"
    assert selection.VARIABLE not in os.environ


@pytest.mark.parametrize(
    ("interprets", "version", "missing"),
    [
        ("0", "3.6.0", None),
        ("1", "3.6.0", "triton 3.7 or newer, which new versions of torch install,"),
        ("1", "3.7.0", None),
        ("0", "3.10.1+git7", None),
        ("0", "4.0.0", None),
        ("0", "3.2.0", "triton 3.6 or newer, which new versions of torch install,"),
    ],
)
def test_an_old_triton_counts_as_missing(
    interprets: str, version: str, missing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", interprets)
    monkeypatch.setattr(selection, "find_spec", lambda name: name)
    monkeypatch.setattr(selection, "import_module", lambda name: SimpleNamespace(__version__=version))
    assert selection._missing_package.__wrapped__() == missing
