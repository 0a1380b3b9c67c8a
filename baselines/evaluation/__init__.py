"""Playing episodes, statistics of runs, welfare, and reports."""
