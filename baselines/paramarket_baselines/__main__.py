"""The command ``paramarket`` as a process, which is also ``python -m paramarket_baselines``."""

from __future__ import annotations

import os
import sys

from paramarket_baselines import process


def main() -> int:
    """Run the command on the arguments of the process; returns the exit status."""
    process.exit_at_once()
    os.environ["MPLBACKEND"] = "agg"  # a notebook's backend may be missing here, and pictures go to files only
    from paramarket_baselines.cli import main as command  # noqa: PLC0415  # takes seconds, in which it can be stopped

    return process.run_to_end(command)


if __name__ == "__main__":
    sys.exit(main())
