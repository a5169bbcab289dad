"""The current tenant: the innermost `tenant_context` block of the running context."""

from __future__ import annotations

from contextlib import AbstractContextManager, ContextDecorator, nullcontext
from contextvars import ContextVar, Token
from uuid import UUID


class tenant_context(ContextDecorator):  # noqa: N801 - callers use it like a function, in `with`
    """Set the current tenant in this block, and in the tasks that it starts, also after the end of the block.

    Do not `yield` inside the block in a generator: the code that iterates over the generator runs in the same context,
    and would have this tenant too (docs/tenants.md).

    Example:
        with tenant_context(user.tenant_id):
            async with get_db() as session:
                same_user = await UserRepository(session).get(user.id)

    Args:
        tenant_id: The tenant.

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
        """Restores the enclosing block; None before the block and after its use."""

    def __enter__(self) -> UUID:
        if self.token is not None or self.has_ended:
            raise RuntimeError(
                "this tenant_context object was entered before, and can be entered only once: create another with"
                " tenant_context(tenant_id)"
            )
        self.token = _innermost.set(self)
        return self.tenant_id

    def __exit__(self, *_error: object) -> None:
        self.has_ended = True
        _open_block()

    def _recreate_cm(self) -> tenant_context:
        """Return a new block for each call of a decorated function (the hook of ContextDecorator)."""
        return tenant_context(self.tenant_id)


_innermost: ContextVar[tenant_context | None] = ContextVar("tenant_block", default=None)


def given_tenant(tenant_id: UUID | None) -> AbstractContextManager[object]:
    """Return a block of a tenant; with None, one that keeps the current tenant.

    Raises:
        TypeError: The tenant is not a UUID.
    """
    return nullcontext() if tenant_id is None else tenant_context(tenant_id)


def current_tenant() -> UUID | None:
    """Return the tenant of the innermost open `tenant_context`, or None."""
    block = _innermost.get()
    if block is not None and block.has_ended:
        block = _open_block()
    return None if block is None else block.tenant_id


def _open_block() -> tenant_context | None:
    """Reset the blocks that have ended, from the innermost outward, and return the innermost open one.

    Blocks can end out of order: a generator with a block can be closed inside a later block of its consumer, or in
    another context. So an ended block is reset only when it is the innermost one, and only in the context that entered
    it. A copy of that context belongs to a task that was started inside the block, and that keeps the tenant.
    """
    while (block := _innermost.get()) is not None and block.has_ended and (token := block.token) is not None:
        try:
            _innermost.reset(token)
        except (ValueError, RuntimeError):  # the token belongs to another context, or another thread is using it
            break
        block.token = None  # it refers to its context, which refers to the block
    return block
