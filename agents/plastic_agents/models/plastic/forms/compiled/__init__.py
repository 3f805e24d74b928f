"""The kernel form: sequences go through their whole episode in compiled code, their fast weights in cache.

The equations are in forward.c, backward.c and arguments.h, by hand in both directions. `autograd` gives them their memory
(laid out as `layout` says), spreads them over threads and makes them known to autograd; `build` compiles them at first
use with the system's C compiler. Where there is none, `available` says so and the forms in `plastic_agents.models.plastic.forms.dense`
do the work.
"""

from plastic_agents.models.plastic.forms.compiled.autograd import available, refusal, step_compiled, unroll_compiled

__all__ = ["available", "refusal", "step_compiled", "unroll_compiled"]
