"""What migrations call so as not to stop the service: indexes built beside the traffic, rules checked afterwards.

A rule over a large table takes two revisions: `add_check` or `add_foreign_key` is quick and binds new rows at once;
`validate`, in a later transaction, reads the old ones while the table is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from alembic import op
from sqlalchemy import Connection, TextClause, text
from sqlalchemy.dialects.postgresql import dialect

from src.config import get_logger
from src.database.errors import DatabaseError
from src.database.migrate.autocommit import outside_transactions
from src.database.migrate.backfill import backfill
from src.database.migrate.foreign_keys import check_foreign_key
from src.database.migrate.lock import DEFAULT_LOCK_SECONDS

__all__ = [
    "add_check",
    "add_foreign_key",
    "backfill",
    "create_index_concurrently",
    "drop_index_concurrently",
    "set_not_null",
    "validate",
]

CONCURRENT_LOCK_SECONDS: Final = 600
"""What CREATE INDEX CONCURRENTLY may wait for each old transaction: nobody waits behind it."""

_INDEX: Final = text("""
SELECT indisvalid AND indisready AS is_whole, indrelid = to_regclass(quote_ident(:table)) AS is_its_own
  FROM pg_catalog.pg_index WHERE indexrelid = to_regclass(quote_ident(:name))
""")
_CONSTRAINT: Final = text("""
SELECT convalidated, pg_get_constraintdef(oid) AS rule,
       xmin::text = pg_current_xact_id_if_assigned()::xid::text AS is_new
  FROM pg_catalog.pg_constraint WHERE conrelid = to_regclass(quote_ident(:table)) AND conname = :name
""")
_quote: Final = dialect().identifier_preparer.quote  # type: ignore[no-untyped-call] # SQLAlchemy's has no types


def create_index_concurrently(
    name: str, table: str, columns: Sequence[str | TextClause], *, unique: bool = False, **options: Any
) -> None:
    """Create an index while the table is read and written. First in its revision, since no transaction can hold it.

    It can be begun again: an invalid index of this name, which an interrupted run leaves behind, is dropped first, and
    a whole one is let be. Its SQL (`--sql`) cannot look, and drops either.

    Args:
        name: The index.
        table: The table.
        columns: Names, or `sa.text` for expressions; the tenant's first.
        unique: Refuse duplicates, from before it is whole.
        options: As of `op.create_index`: ``postgresql_where``, ``postgresql_include``, ``postgresql_using``, ...

    Raises:
        DatabaseError: It is not first in its revision, or another table has an index of this name.
        DuplicateKeyError: There are duplicates.
    """
    with outside_transactions("create_index_concurrently") as connection:
        if connection is None:
            with _no_haste(connection):
                _drop(name)
        elif (found := connection.execute(_INDEX, {"name": name, "table": table}).first()) is not None:
            if not found.is_its_own:
                raise DatabaseError(f"{name} must be the name of a new index: another table has one of this name")
            if found.is_whole:
                get_logger(__name__).info("index_is_there", index=name)
                return
            get_logger(__name__).warning("invalid_index_is_dropped", index=name)
            with _no_haste(connection):
                _drop(name)
        with _no_haste(connection):
            op.create_index(name, table, list(columns), unique=unique, postgresql_concurrently=True, **options)


def drop_index_concurrently(name: str) -> None:
    """Drop an index, if it is there, while its table is read and written. First in its revision.

    Raises:
        DatabaseError: It is not first in its revision, or a constraint needs the index.
    """
    with outside_transactions("drop_index_concurrently") as connection, _no_haste(connection):
        _drop(name)


def add_check(name: str, table: str, condition: str) -> None:
    """Add a CHECK that binds new rows; `validate` it in a later revision."""
    op.create_check_constraint(op.f(name), table, text(condition), postgresql_not_valid=True)


def add_foreign_key(
    name: str, table: str, columns: Sequence[str], referred: str, referred_columns: Sequence[str], **options: Any
) -> None:
    """Add a foreign key that binds new rows; `validate` it in a later revision.

    Args:
        name: The constraint.
        table: The table that refers.
        columns: The tenant's first.
        referred: The table that is referred to.
        referred_columns: The same, there.
        options: As of `op.create_foreign_key`: ``ondelete``, ...
    """
    pairs = (list(columns), list(referred_columns))
    op.create_foreign_key(op.f(name), table, referred, *pairs, postgresql_not_valid=True, **options)


def validate(table: str, name: str) -> None:
    """Check the rows that were there before a constraint, while the table is read and written.

    Raises:
        DatabaseError: The constraint is not there, or was added in this very transaction, whose lock on the table
            would be held meanwhile.
        CheckViolation: A row is against it. Or `ForeignKeyError`.
    """
    if (connection := _online()) is not None:
        found = connection.execute(_CONSTRAINT, {"name": name, "table": table}).first()
        if found is None:
            raise DatabaseError(f"{table} has no constraint {name}")
        if found.is_new:
            raise DatabaseError(
                f"{name} must be validated in a later revision than the one that adds it: all who use {table} would"
                " wait while its rows are read",
                hint="move `validate` into a revision of its own",
            )
        check_foreign_key(connection, table, name)
    op.execute(f"ALTER TABLE {_quote(table)} VALIDATE CONSTRAINT {_quote(name)}")


def set_not_null(table: str, column: str, *, check: str) -> None:
    """Forbid NULL without reading the table: a validated CHECK has shown that there is none; it is dropped then.

    Args:
        table: The table.
        column: The column.
        check: A CHECK of `<column> IS NOT NULL`: made by `add_check`, and validated in an earlier revision.

    Raises:
        DatabaseError: There is no such CHECK, it says something else, or it is not validated.
    """
    if (connection := _online()) is not None:
        found = connection.execute(_CONSTRAINT, {"name": check, "table": table}).first()
        if found is None or not found.convalidated or found.rule != f"CHECK (({_quote(column)} IS NOT NULL))":
            raise DatabaseError(
                f"{check} must be a validated CHECK ({column} IS NOT NULL) of {table}: without it PostgreSQL reads the"
                " whole table while all who use it wait",
                hint=f"add_check({check!r}, {table!r}, '{column} IS NOT NULL') in one revision, validate in the next",
            )
    op.alter_column(table, column, nullable=False)
    op.drop_constraint(op.f(check), table)


def _drop(name: str) -> None:
    op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {_quote(name)}")


def _online() -> Connection | None:
    return None if op.get_context().as_sql else op.get_bind()


@contextmanager
def _no_haste(connection: Connection | None) -> Iterator[None]:
    """Wait longer than others do: what runs concurrently waits for old transactions, and nobody waits for it."""
    if connection is None:
        op.execute(f"SET lock_timeout = '{CONCURRENT_LOCK_SECONDS}s'")
        yield
        op.execute(f"SET lock_timeout = '{DEFAULT_LOCK_SECONDS:.0f}s'")  # as the script begins
        return
    before = connection.scalar(text("SHOW lock_timeout"))
    connection.execute(text(f"SET lock_timeout = '{CONCURRENT_LOCK_SECONDS}s'"))
    try:
        yield
    finally:
        if not connection.invalidated:
            connection.execute(text(f"SET lock_timeout = '{before}'"))
