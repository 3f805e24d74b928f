"""Recurrent networks with a common interface, `plastic_agents.models.core.RecurrentCore`."""
