"""Sweeps: many runs that differ in their settings, and one table of their results."""
