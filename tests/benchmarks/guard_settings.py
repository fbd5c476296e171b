"""Settings of hypothesis for a machine that others use, too."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

CALM = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
