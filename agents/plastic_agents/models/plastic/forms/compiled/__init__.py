"""The compiled form: C code runs each sequence through its whole episode, with the fast weights in cache.

forward.c and backward.c have the equations in both directions, written by hand. `autograd` allocates their memory in
the layout of `layout`, divides the sequences between threads and defines the autograd function. `build` compiles the C
code at first use with the system's C compiler. Without a compiler, `available` returns False and networks use another
form.
"""

from plastic_agents.models.plastic.forms.compiled.autograd import available, refusal, step_compiled, unroll_compiled

__all__ = ["available", "refusal", "step_compiled", "unroll_compiled"]
