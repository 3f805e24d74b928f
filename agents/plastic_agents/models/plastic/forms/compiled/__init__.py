"""The compiled form: sequences run through their whole episode in C, with their fast weights in the CPU's cache.

The equations are in forward.c, backward.c and arguments.h, written by hand in both directions. `autograd` allocates
their memory (in the layout of `layout`), distributes the sequences over threads and registers the derivatives with
torch; `build` compiles the library at first use with the system's C compiler. Without a compiler, `available` returns
False and the network takes the dense or the implicit form.
"""

from plastic_agents.models.plastic.forms.compiled.autograd import available, refusal, step_compiled, unroll_compiled

__all__ = ["available", "refusal", "step_compiled", "unroll_compiled"]
