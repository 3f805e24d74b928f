"""Checks for a recurrent core or a plasticity rule of your own; a failed check raises AssertionError."""

from plastic_agents.testing.core import check_core
from plastic_agents.testing.rule import check_rule

__all__ = ["check_core", "check_rule"]
