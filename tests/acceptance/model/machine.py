"""The state machine: all steps, in any order."""

from __future__ import annotations

from tests.acceptance.model.message_steps import MessageSteps
from tests.acceptance.model.note_steps import NoteSteps
from tests.acceptance.model.session_steps import SessionSteps
from tests.acceptance.model.state_steps import StateSteps

__all__ = ["Machine"]


class Machine(MessageSteps, NoteSteps, StateSteps, SessionSteps):
    """The state machine with all rules."""
