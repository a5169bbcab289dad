"""The state machine: all steps, in any order."""

from __future__ import annotations

from tests.acceptance.model.keeping import Keeping
from tests.acceptance.model.talking import Talking

__all__ = ["Machine"]


class Machine(Talking, Keeping):
    """The state machine with all rules."""
