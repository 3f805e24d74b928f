"""Plasticity rules, one a file: the equation, its source and a pure function."""
