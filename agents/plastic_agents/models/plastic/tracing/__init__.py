"""A tracer of the Python of a step, and its derivatives: what the compiled form generates its code from."""
