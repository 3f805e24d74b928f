"""Settings that all tests share."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Other work may share the processors: the time that an example takes says nothing about the code.
settings.register_profile("shared processors", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared processors")
