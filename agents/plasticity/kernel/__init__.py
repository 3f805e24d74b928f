"""The kernel form: sequences go through their whole episode in compiled code, their fast weights in cache.

The equations are in forward.c, backward.c and episode.h, by hand in both directions. `autograd` gives them their memory
(laid out as `layout` says), spreads them over threads and makes them known to autograd; `build` compiles them at first
use with the system's C compiler. Where there is none, `available` says so and the forms in `agents.plasticity.unroll`
do the work.
"""

from agents.plasticity.kernel.autograd import available, refusal, step_kernel, unroll_kernel

__all__ = ["available", "refusal", "step_kernel", "unroll_kernel"]
