"""What is measured: throughput, the paper's experiments, the leaderboard."""
