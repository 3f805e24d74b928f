"""Fast weights that change at every step of an episode: the rules, the state and the forms in which they are run."""
