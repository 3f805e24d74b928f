"""The plasticity rules. Each file has the equation, its source and a pure function."""
