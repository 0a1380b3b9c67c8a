"""The market as an RL environment: actions, observations, infos, policies and rendering."""
