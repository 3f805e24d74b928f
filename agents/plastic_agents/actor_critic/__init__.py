"""Recurrent actor-critics on Stable-Baselines3, for plastic and other cores."""
