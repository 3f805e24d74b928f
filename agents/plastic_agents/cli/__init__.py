"""The command line, ``plastic-rnn``."""
