"""Episodes, statistics of runs, economic measures and reports."""
