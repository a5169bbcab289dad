"""The current tenant: the innermost `tenant_context` block of the running context."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from uuid import UUID

__all__ = ["current_tenant", "tenant_context"]


class _Block:
    """One `tenant_context` block. A task started inside of it inherits the block and keeps its tenant."""

    __slots__ = ("has_ended", "tenant_id", "token")

    def __init__(self, tenant_id: UUID) -> None:
        self.tenant_id = tenant_id
        self.has_ended = False
        self.token: Token[_Block | None] | None = None
        """Restores the block around this one; None once it is used."""


_innermost: ContextVar[_Block | None] = ContextVar("tenant_block", default=None)


@contextmanager
def tenant_context(tenant_id: UUID) -> Iterator[UUID]:
    """Set the current tenant for this block and for the tasks that it starts.

    Do not put a `yield` inside of the block in a generator: the tenant is then also the current one of whoever iterates
    over it (docs/tenants.md).

    Raises:
        TypeError: The tenant is not a UUID.
    """
    if not isinstance(tenant_id, UUID):
        raise TypeError(f"tenant_id must be a uuid.UUID, got {type(tenant_id).__name__}")
    block = _Block(tenant_id)
    block.token = _innermost.set(block)
    try:
        yield tenant_id
    finally:
        block.has_ended = True
        _open_block()


def current_tenant() -> UUID | None:
    """Return the tenant of the innermost `tenant_context`, or None outside of any."""
    block = _innermost.get()
    if block is not None and block.has_ended:
        block = _open_block()
    return None if block is None else block.tenant_id


def _open_block() -> _Block | None:
    """Leave the blocks that have ended, and return the innermost one that is left.

    Blocks end out of order where a generator holds one: it can be closed inside of a later block of its consumer, or in
    another context. So a block is left once it is the innermost one, and only in the context that entered it: a copy
    of that context belongs to a task that was started inside of the block.
    """
    while (block := _innermost.get()) is not None and block.has_ended and (token := block.token) is not None:
        try:
            _innermost.reset(token)
        except (ValueError, RuntimeError):  # the token is of another context, or another thread uses it just now
            break
        block.token = None  # it refers to its context, which refers to the block
    return block
