"""The exact forms in which a plastic network runs over a sequence: dense, implicit and compiled."""
