"""Recurrent networks behind one interface: `initial_state`, `step` and `unroll`."""
