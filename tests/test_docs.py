"""The README keeps its word: its code runs, its table of observations is the layout's, its pictures exist."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from paramarket_env import paramarket_v0

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXTRAS = ("sb3_contrib", "torchrl")
"""What a snippet may import although it need not be installed."""
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_the_code_in_the_readme_runs(snippet: str) -> None:
    for module in EXTRAS:
        if f"from {module}" in snippet:
            pytest.importorskip(module)
    exec(compile(snippet, "README.md", "exec"), {})


def test_the_table_of_observations_is_the_layout_of_the_default_market() -> None:
    assert paramarket_v0.parallel_env(device="cpu").layout.table() in README


def test_pictures_and_files_that_the_readme_names_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_argument_is_on_the_page_of_the_environment() -> None:
    page = paramarket_v0.__doc__ or ""
    for factory in ("parallel_env", "gym_env", "vector_env", "sb3_vec_env", "torchrl_env", "rllib_env"):
        assert f"`{factory}(" in page or f"`{factory}`" in page
        for name in inspect.signature(getattr(paramarket_v0, factory)).parameters:
            assert f"`{name}`" in page
