"""Links of the pages work in the repository and on the site alike; this turns the first into the second."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
PAGES = (".png", ".md")


def on_files(files: Files, config: Any) -> Files:
    """Add the benchmarks' pictures, the leaderboard and the pages of the paper's experiments as ``results/``.

    The page of the tuning is added if a search has made it.
    """
    paper = [path for path in RESULTS.glob("paper/**/*") if path.suffix in PAGES]
    for path in (*RESULTS.glob("*.png"), RESULTS / "leaderboard.md", *RESULTS.glob("tuning.md"), *paper):
        files.append(File.generated(config, f"results/{path.relative_to(RESULTS).as_posix()}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links that leave ``docs/`` lead to ``results/``, or to the file in the repository."""
    folder = Path(page.file.abs_src_path).parent
    here = Path(page.file.src_uri).parent

    def moved(link: re.Match[str]) -> str:
        target, anchor = link.group(1), link.group(2) or ""
        path = Path(os.path.normpath(folder / target))
        if path.is_relative_to(RESULTS) and path.suffix in PAGES:
            place = Path("results") / path.relative_to(RESULTS)
        elif path.is_relative_to(ROOT / "docs"):
            place = path.relative_to(ROOT / "docs")
        else:
            return f"]({config.repo_url}/blob/main/{path.relative_to(ROOT).as_posix()}{anchor})"
        return f"]({os.path.relpath(place, here)}{anchor})"

    return re.sub(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)", moved, markdown)
