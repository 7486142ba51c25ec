"""Every reader and every exporter, what to feed it with, and what has to hold of what it accepts."""

from __future__ import annotations

from tests.fuzz.data import data
from tests.fuzz.exporters import exporters
from tests.fuzz.models import models
from tests.fuzz.poses import poses
from tests.fuzz.target import Target

__all__ = ["Target", "targets"]


def targets() -> list[Target]:
    """All of them; those of packages that are not installed are missing."""
    return [*models(), *data(), *poses(), *exporters()]
