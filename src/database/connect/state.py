"""The state of a session's connection that the driver does not keep."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass


@dataclass(slots=True)
class ConnectionState:
    """The state of one connection of the driver's, from its opening to its end. It remembers no tenant.

    | transition | when | what changes |
    | --- | --- | --- |
    | `opened` | the pool has opened the connection | it has a time to retire |
    | `checked_in` | the pool gets the connection back | it is idle from now on |
    | `began` | a transaction begins, or begins again | nothing is written, no COMMIT is sent, nothing has failed |
    | `wrote` | a statement that may write is sent | the transaction may have written |
    | `failed` | the server refuses a statement | inside a transaction, only a rollback is possible |
    | `set_savepoint` | a savepoint is set | the transaction cannot be begun again |
    | `rolled_back` | the transaction, or a savepoint, is rolled back | nothing has failed |
    | `commit_sent` | COMMIT is about to be sent | its outcome is uncertain until it is answered |

    Attributes:
        retires_at: When the pool replaces the connection, in seconds of the monotonic clock.
        idle_since: When the pool got the connection back last; None if it is in use for the first time.
        may_have_written: True if the open transaction may have written.
        is_commit_sent: True if COMMIT was sent for a transaction that may have written.
        is_aborted: True if the open transaction can only be rolled back.
        begun_with: The statements that begin the open transaction again, if it only reads, each statement sees what is
            committed by then, and there is no savepoint; else None.
    """

    retires_at: float = math.inf
    idle_since: float | None = None
    may_have_written: bool = False
    is_commit_sent: bool = False
    is_aborted: bool = False
    begun_with: str | None = None

    @property
    def was_kept(self) -> bool:
        """True if the pool has kept the connection: the server may have ended it meanwhile."""
        return self.idle_since is not None

    def opened(self, *, lifetime: float) -> None:
        """Set the time to retire; `lifetime` in seconds."""
        self.retires_at = time.monotonic() + lifetime

    def checked_in(self) -> None:
        """Start the idle time."""
        self.idle_since = time.monotonic()

    def began(self, begun_with: str | None = None) -> None:
        """Forget the transaction before."""
        self.may_have_written = self.is_commit_sent = self.is_aborted = False
        self.begun_with = begun_with

    def wrote(self) -> None:
        """Record that a statement is sent that may write."""
        self.may_have_written = True

    def failed(self, *, in_transaction: bool) -> None:
        """Record that the server refused a statement; outside of a transaction nothing is aborted."""
        self.is_aborted = in_transaction

    def set_savepoint(self) -> None:
        """Record a savepoint, which would be lost if the transaction was begun again."""
        self.begun_with = None

    def rolled_back(self) -> None:
        """Record that the transaction is sound again, or over."""
        self.is_aborted = False

    def commit_sent(self, *, is_open: bool) -> None:
        """Record that COMMIT is sent, unless the connection is closed already."""
        self.is_commit_sent = self.may_have_written and is_open

    def has_lost_its_transaction(self, *, in_transaction: bool) -> bool:
        """Return True if the transaction was aborted or ended, and can be begun again without a loss."""
        return self.begun_with is not None and (self.is_aborted or not in_transaction)
