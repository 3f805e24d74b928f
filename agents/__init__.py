"""Plastic recurrent networks, their training and the probes that show where their memory lives."""
