"""Sweeps: many runs with different settings, and one table of their results."""
