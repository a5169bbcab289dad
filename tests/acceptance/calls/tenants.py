"""The calls of TenantRepository."""

from __future__ import annotations

from typing import Final

from src.database.base import uuid7
from tests.acceptance.calls.rows import Call, listed

# A change first sets its tenant in another statement: the policy rejects changes of other tenants.
CALLS: Final = {
    "create": Call(lambda r, _: r.create(f"t-{uuid7()}", "T"), statements=1),
    "get": Call(lambda r, b: r.get(b.tenant), statements=1),
    "get_by_slug": Call(lambda r, b: r.get_by_slug(f"default-{b.tenant.hex}"), statements=1),
    "update": Call(lambda r, b: r.update(b.tenant, name="new"), statements=2),
    "suspend": Call(lambda r, b: r.suspend(b.tenant), statements=2),
    "activate": Call(lambda r, b: r.activate(b.tenant), statements=2),
    "delete": Call(lambda r, b: r.delete(b.tenant), statements=2, needs_own_rows=True),
    "page": Call(lambda r, _: r.page(limit=10), statements=1, most_rows=float("inf")),
    "active": Call(lambda r, _: listed(r.active()), statements=1, most_rows=float("inf")),
}
