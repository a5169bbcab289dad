"""The current tenant: the innermost `tenant_context` block of the running context."""

from __future__ import annotations

from contextlib import ContextDecorator
from contextvars import ContextVar, Token
from uuid import UUID


class tenant_context(ContextDecorator):  # noqa: N801 - used as a function is, in `with`
    """Set the current tenant for this block and for the tasks that it starts.

    Do not put a `yield` inside of the block in a generator: the tenant is then also the current one of whoever iterates
    over it (docs/tenants.md). A task started inside of the block inherits the block and keeps its tenant.

    Raises:
        TypeError: The tenant is not a UUID.
    """

    __slots__ = ("has_ended", "tenant_id", "token")

    def __init__(self, tenant_id: UUID) -> None:
        if not isinstance(tenant_id, UUID):
            raise TypeError(f"tenant_id must be a uuid.UUID, got {type(tenant_id).__name__}")
        self.tenant_id = tenant_id
        self.has_ended = False
        self.token: Token[tenant_context | None] | None = None
        """Restores the block around this one; None before the block and once it is used."""

    def __enter__(self) -> UUID:
        if self.token is not None or self.has_ended:
            raise RuntimeError("a tenant_context is entered once: call tenant_context again")
        self.token = _innermost.set(self)
        return self.tenant_id

    def __exit__(self, *_error: object) -> None:
        self.has_ended = True
        _open_block()

    def _recreate_cm(self) -> tenant_context:
        """Return a new block for each call of a decorated function (the hook of ContextDecorator)."""
        return tenant_context(self.tenant_id)


_innermost: ContextVar[tenant_context | None] = ContextVar("tenant_block", default=None)


def current_tenant() -> UUID | None:
    """Return the tenant of the innermost `tenant_context`, or None outside of any."""
    block = _innermost.get()
    if block is not None and block.has_ended:
        block = _open_block()
    return None if block is None else block.tenant_id


def _open_block() -> tenant_context | None:
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
