"""Changes rows in a migration: tenant by tenant, batch by batch, each committed, so that it can be begun again."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, text

from src.config import get_logger
from src.database.errors import DatabaseError
from src.database.migrate.autocommit import outside_transactions
from src.database.migrate.tenants import TENANT, bind, tenants

__all__ = ["backfill"]

TELL_SECONDS: Final = 5.0
_NEEDED: Final = ("tenant_id", "batch")
_COUNT: Final = text("SELECT count(*) FROM tenants")


def backfill(statement: str, *, batch: int = 1000) -> int:
    """Repeat a statement for every tenant until it changes no row, in transactions of one batch; returns the rows.

    As the tables' owner, whom row-level security binds too, an UPDATE without a tenant changes nothing and says
    nothing. So each batch is bound to its tenant. First in its revision. Example::

        backfill(\"\"\"
            UPDATE users SET locale = 'es'
             WHERE tenant_id = :tenant_id AND id IN (
                   SELECT id FROM users WHERE tenant_id = :tenant_id AND locale IS NULL LIMIT :batch)
        \"\"\")

    Args:
        statement: With `:tenant_id` beside each table and `LIMIT :batch`; and a condition that its own work makes
            false, or it would never end.
        batch: Rows a transaction, 1 or more.

    Raises:
        ValueError: The statement lacks one of the two, or the batch cannot serve.
        DatabaseError: It is not first in its revision, or only its SQL is asked for: that cannot go through tenants.
    """
    if missing := [name for name in _NEEDED if not re.search(rf"(?<!:):{name}\b", statement)]:
        raise ValueError(f"statement must have {' and '.join(f':{name}' for name in missing)}, and does not")
    if batch < 1:
        raise ValueError(f"batch must be 1 row or more, got {batch}")
    prepared = text(statement).bindparams(TENANT)
    with outside_transactions("backfill") as connection:
        if connection is None:
            raise DatabaseError(
                "backfill cannot be written as SQL: it goes through the tenants, who are known to the database alone",
                hint="run this revision by `thea-db upgrade`, and print the SQL of those before and after it",
            )
        progress = _Progress(connection.scalar(_COUNT) or 0)
        for number, tenant_id in enumerate(tenants(connection), start=1):
            parameters = {"tenant_id": tenant_id, "batch": batch}

            def one_batch(parameters: dict[str, Any] = parameters) -> int:
                bind(connection, parameters["tenant_id"])
                return connection.execute(prepared, parameters).rowcount

            while changed := _in_transaction(connection, one_batch):
                progress.add(changed, tenant=number)
        progress.tell("backfilled")
    return progress.rows


class _Progress:
    """How far it is, told now and then."""

    def __init__(self, tenants: int) -> None:
        self.rows = 0
        self._tenants = tenants
        self._tenant = 0
        self._told = time.monotonic()

    def add(self, rows: int, *, tenant: int) -> None:
        self.rows += rows
        self._tenant = tenant
        if time.monotonic() - self._told >= TELL_SECONDS:
            self._told = time.monotonic()
            self.tell("backfilling")

    def tell(self, event: str) -> None:
        # "of" was counted at the beginning; some may have come since.
        get_logger(__name__).info(event, last_tenant=self._tenant, of=self._tenants, rows=self.rows)


def _in_transaction(connection: Connection, work: Callable[[], int]) -> int:
    """Do one batch in a transaction that is said by hand: to SQLAlchemy this connection commits by itself."""
    connection.exec_driver_sql("BEGIN")
    try:
        rows = work()
    except DatabaseError:
        if not connection.invalidated:
            connection.exec_driver_sql("ROLLBACK")
        raise
    connection.exec_driver_sql("COMMIT")
    return rows
