"""A process whose clock differs from the server's."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta

import pytest

__all__ = ["skew_clock"]


def skew_clock(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    """Set the clock of this process ahead, or back, wherever the package reads it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("src.database") and hasattr(module, "utc_now"):
            monkeypatch.setattr(module, "utc_now", lambda: datetime.now(UTC) + by)
