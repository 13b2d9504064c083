"""Numbers from plain values: no samples, no models of a room, no files."""

from __future__ import annotations

from sightline.errors import SightlineError


class MetricUnavailable(SightlineError):
    """A metric cannot be computed here because data or a model is missing; the run goes on without it."""
