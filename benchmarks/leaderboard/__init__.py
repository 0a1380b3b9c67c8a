"""The leaderboard: every entry against unseen opponents, over all short scenarios.

``docs/protocol.md`` has the rules and their reasons, and ``paramarket_baselines.evaluation.protocol`` the sets of
populations. Each file of ``benchmarks/entries/`` is an entry (see ``entries``). ``benchmarks/results/leaderboard/``
stores, for each scenario, the returns of every player in ``plays/``, the course of every training in ``trainings/``,
the returns out of the market and the anchors. What is stored is not played again. A player is a rule, one training of a
learned entry, or one best response.
"""
