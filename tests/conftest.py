"""Hypothesis settings of all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# On a shared machine, the time of an example says nothing about the code.
settings.register_profile("shared CPU", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared CPU")
