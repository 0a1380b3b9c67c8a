"""Markets as games between policies: payoffs of all profiles, symmetric equilibria and deviation ratings."""
