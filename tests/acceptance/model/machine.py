"""The machine: everything that can happen, in any order."""

from __future__ import annotations

from tests.acceptance.model.keeping import Keeping
from tests.acceptance.model.talking import Talking

__all__ = ["Machine"]


class Machine(Talking, Keeping):
    """All the rules."""
