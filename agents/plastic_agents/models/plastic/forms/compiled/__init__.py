"""The compiled form: C code runs each sequence through its whole episode, with the fast weights in cache.

The C code is generated. `program` traces the step's own Python and adds the derivatives (see
`plastic_agents.models.plastic.tracing`). `generate`, `memory` and `emit` write the vector work as C. The passes over
matrices (passes.c) and the walk through an episode (forward.c, backward.c) are the same for any cell and rule. `build`
compiles both at first use with the system's C compiler, and `cache` keeps them. `kernel` puts these together.
`autograd` allocates memory, divides the sequences between threads and defines the autograd function. Without a
compiler, or with a step that can't be traced, `refusal` says so and networks use another form.
"""

from plastic_agents.models.plastic.forms.compiled.autograd import (
    available,
    find,
    refusal,
    step_compiled,
    unroll_compiled,
)

__all__ = ["available", "find", "refusal", "step_compiled", "unroll_compiled"]
