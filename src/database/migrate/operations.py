"""Operations for migrations while the service runs: indexes, constraints, changes of rows, SQL functions.

A constraint on a large table takes two revisions. `add_check` or `add_foreign_key` holds its lock briefly, and the
constraint applies to new rows immediately. `validate`, in a later transaction, reads the existing rows under a lock
that lets other sessions read and write.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID

from alembic import op
from sqlalchemy import Connection, Row, TextClause, Uuid, bindparam, text
from sqlalchemy.dialects.postgresql import dialect

from src.config import get_logger
from src.database.errors import DatabaseError, ForeignKeyError
from src.database.migrate.lock import DEFAULT_LOCK_SECONDS, SCHEMA

CONCURRENT_LOCK_SECONDS: Final = 600
"""The limit for CREATE INDEX CONCURRENTLY to wait for each older transaction; no session waits behind it."""
REPORT_SECONDS: Final = 5.0
TENANTS_PER_QUERY: Final = 1000

_quote: Final = dialect().identifier_preparer.quote  # type: ignore[no-untyped-call] # SQLAlchemy does not annotate it

_INDEX: Final = text("""
SELECT indisvalid AND indisready AS is_valid, indrelid = to_regclass(quote_ident(:table)) AS is_of_table
  FROM pg_catalog.pg_index WHERE indexrelid = to_regclass(quote_ident(:name))
""")
_CONSTRAINT: Final = text("""
SELECT convalidated, pg_get_constraintdef(oid) AS rule,
       xmin::text = pg_current_xact_id_if_assigned()::xid::text AS is_new
  FROM pg_catalog.pg_constraint WHERE conrelid = to_regclass(quote_ident(:table)) AND conname = :name
""")
_HIDDEN_FOREIGN_KEY: Final = text("""
SELECT conrelid::regclass::text AS child, confrelid::regclass::text AS parent,
       string_agg(format('parent.%I = child.%I', far.attname, near.attname), ' AND ' ORDER BY place) AS refers,
       string_agg(format('child.%I IS NOT NULL', near.attname), ' AND ' ORDER BY place) AS is_given
  FROM pg_catalog.pg_constraint, unnest(conkey, confkey) WITH ORDINALITY AS pair (near_number, far_number, place)
  JOIN pg_catalog.pg_attribute AS near ON near.attnum = near_number
  JOIN pg_catalog.pg_attribute AS far ON far.attnum = far_number
 WHERE conname = :name AND conrelid = to_regclass(quote_ident(:table)) AND contype = 'f'
   AND near.attrelid = conrelid AND far.attrelid = confrelid
   AND (row_security_active(conrelid) OR row_security_active(confrelid))
 GROUP BY conrelid, confrelid
""")
_TENANT: Final = bindparam("tenant_id", type_=Uuid())
_BIND: Final = text("SELECT app_set_tenant(:tenant_id)").bindparams(_TENANT)
_TENANTS_AFTER: Final = text("SELECT id FROM tenants WHERE id > :after ORDER BY id LIMIT :page").bindparams(
    bindparam("after", type_=Uuid())
)
_SIGNATURE: Final = re.compile(r"CREATE FUNCTION \{schema\}\.(\w+)\(")


def create_index_concurrently(
    name: str, table: str, columns: Sequence[str | TextClause], *, unique: bool = False, **options: Any
) -> None:
    """Create an index while other sessions read and write the table. It must come first in its revision.

    The operation can be repeated: an invalid index of this name, which an interrupted run leaves behind, is dropped
    first, and a valid index is kept. The printed SQL (`--sql`) cannot distinguish them and drops either.

    Args:
        name: The index.
        table: The table.
        columns: Names, or `sa.text` for expressions; `tenant_id` first.
        unique: Reject duplicates. The server already rejects new duplicates while the index is not valid yet.
        options: Arguments of `op.create_index`: ``postgresql_where``, ``postgresql_include``, ``postgresql_using``, ...

    Raises:
        DatabaseError: The operation is not first in its revision, or another table has an index of this name.
        DuplicateKeyError: The table has duplicates.
    """
    with autocommit_block("create_index_concurrently") as connection, _long_lock_timeout(connection):
        if connection is None:
            _drop_index(name)
        elif (index := connection.execute(_INDEX, {"name": name, "table": table}).first()) is not None:
            if not index.is_of_table:
                raise DatabaseError(f"{name} must be the name of a new index: another table has an index of this name")
            if index.is_valid:
                get_logger(__name__).info("index_is_there", index=name)
                return
            get_logger(__name__).warning("invalid_index_is_dropped", index=name)
            _drop_index(name)
        op.create_index(name, table, list(columns), unique=unique, postgresql_concurrently=True, **options)


def drop_index_concurrently(name: str) -> None:
    """Drop an index, if it exists, while other sessions use its table. It must come first in its revision.

    Raises:
        DatabaseError: The operation is not first in its revision, or a constraint needs the index.
    """
    with autocommit_block("drop_index_concurrently") as connection, _long_lock_timeout(connection):
        _drop_index(name)


def add_check(name: str, table: str, condition: str) -> None:
    """Add a CHECK that applies to new rows; `validate` it in a later revision.

    Args:
        name: The constraint.
        table: The table.
        condition: An SQL expression over the columns of the table.
    """
    op.create_check_constraint(op.f(name), table, text(condition), postgresql_not_valid=True)


def add_foreign_key(
    name: str, table: str, columns: Sequence[str], referred: str, referred_columns: Sequence[str], **options: Any
) -> None:
    """Add a foreign key that applies to new rows; `validate` it in a later revision.

    Args:
        name: The constraint.
        table: The referring table.
        columns: The referring columns, `tenant_id` first.
        referred: The referenced table.
        referred_columns: The referenced columns, in the same order.
        options: Arguments of `op.create_foreign_key`: ``ondelete``, ...
    """
    pairs = (list(columns), list(referred_columns))
    op.create_foreign_key(op.f(name), table, referred, *pairs, postgresql_not_valid=True, **options)


def validate(table: str, name: str) -> None:
    """Check the rows that are older than a constraint, while other sessions read and write the table.

    Args:
        table: The table.
        name: A CHECK or a foreign key of the table.

    Raises:
        DatabaseError: The constraint does not exist, or the current transaction added it.
        CheckViolation: A row violates the CHECK.
        ForeignKeyError: A row refers to a missing row.
    """
    if (connection := _online()) is not None:
        constraint = connection.execute(_CONSTRAINT, {"name": name, "table": table}).first()
        if constraint is None:
            raise DatabaseError(f"{table} has no constraint {name}")
        if constraint.is_new:  # this transaction holds the lock of ADD CONSTRAINT until it ends
            raise DatabaseError(
                f"{name} must be validated in a later revision than the one that adds it: every other session that"
                f" uses {table} would wait while the rows are read",
                hint="move `validate` into its own revision",
            )
        _check_foreign_key(connection, table, name)
    op.execute(f"ALTER TABLE {_quote(table)} VALIDATE CONSTRAINT {_quote(name)}")


def set_not_null(table: str, column: str, *, check: str) -> None:
    """Set NOT NULL on a column without reading the table, and drop the validated CHECK that proves it.

    Args:
        table: The table.
        column: The column.
        check: A CHECK of `<column> IS NOT NULL` that `add_check` created, and that an earlier revision validated.

    Raises:
        DatabaseError: The CHECK does not exist, has another condition, or is not validated.
    """
    if (connection := _online()) is not None:
        found = connection.execute(_CONSTRAINT, {"name": check, "table": table}).first()
        if found is None or not found.convalidated or found.rule != f"CHECK (({_quote(column)} IS NOT NULL))":
            raise DatabaseError(
                f"{check} must be a validated CHECK ({column} IS NOT NULL) of {table}: without this CHECK PostgreSQL"
                " reads the whole table while every other session that uses the table waits",
                hint=f"call add_check({check!r}, {table!r}, '{column} IS NOT NULL') in one revision, and"
                f" validate({table!r}, {check!r}) in the next",
            )
    op.alter_column(table, column, nullable=False)
    op.drop_constraint(op.f(check), table)


def backfill(statement: str, *, batch: int = 1000) -> int:
    """Repeat a statement for every tenant, one batch a transaction, until it changes no row; return the changed rows.

    Row-level security applies to the owner of the tables too: an UPDATE without a tenant changes no row and reports no
    error. Each batch is therefore bound to its tenant. The operation must come first in its revision. An interrupted
    run can be repeated. Example::

        backfill(\"\"\"
            UPDATE users SET locale = 'es'
             WHERE tenant_id = :tenant_id AND id IN (
                   SELECT id FROM users WHERE tenant_id = :tenant_id AND locale IS NULL LIMIT :batch)
        \"\"\")

    Args:
        statement: An SQL statement with `tenant_id = :tenant_id` for each table and `LIMIT :batch`. It must select rows
            by a condition that its own change makes false: it is repeated until it changes no row.
        batch: The rows of a transaction, 1 or more.

    Raises:
        ValueError: The statement lacks one of the two parameters, or the batch is less than 1.
        DatabaseError: The operation is not first in its revision, or only the SQL is printed, which cannot iterate over
            tenants.
    """
    if missing := [name for name in ("tenant_id", "batch") if not re.search(rf"(?<!:):{name}\b", statement)]:
        raise ValueError(f"statement must have {' and '.join(f':{name}' for name in missing)}, and lacks them")
    if batch < 1:
        raise ValueError(f"batch must be 1 row or more, got {batch}")
    with autocommit_block("backfill") as connection:
        if connection is None:
            raise DatabaseError(
                "backfill cannot be written as SQL: it iterates over the tenants, which only the database knows",
                hint="run this revision by `thea-db upgrade`, and print the SQL of the revisions before and after it",
            )
        return _backfill(connection, text(statement).bindparams(_TENANT), batch)


def _backfill(connection: Connection, statement: TextClause, batch: int) -> int:
    count = connection.scalar(text("SELECT count(*) FROM tenants"))  # for the log; tenants may register meanwhile
    rows = number = 0
    reported = time.monotonic()
    for number, tenant_id in enumerate(_tenants(connection), start=1):
        while changed := _change_batch(connection, statement, {"tenant_id": tenant_id, "batch": batch}):
            rows += changed
            if time.monotonic() - reported >= REPORT_SECONDS:
                reported = time.monotonic()
                get_logger(__name__).info("backfilling", last_tenant=number, of=count, rows=rows)
    get_logger(__name__).info("backfilled", last_tenant=number, of=count, rows=rows)
    return rows


def _change_batch(connection: Connection, statement: TextClause, parameters: dict[str, Any]) -> int:
    """Run one batch in an explicit transaction: SQLAlchemy's connection is in AUTOCOMMIT and begins none."""
    connection.exec_driver_sql("BEGIN")
    try:
        _bind(connection, parameters["tenant_id"])
        rows = connection.execute(statement, parameters).rowcount
    except DatabaseError:
        if not connection.invalidated:  # a lost connection has no transaction to roll back
            connection.exec_driver_sql("ROLLBACK")
        raise
    connection.exec_driver_sql("COMMIT")
    return rows


def _check_foreign_key(connection: Connection, table: str, name: str) -> None:
    """Check tenant by tenant that no row refers to a missing row, if row-level security applies to the current role.

    VALIDATE CONSTRAINT runs a query as the owner of the table. Under forced row-level security and without a tenant
    that query sees no row, and PostgreSQL marks every foreign key as valid. No new row can violate the key meanwhile.

    Raises:
        ForeignKeyError: A row refers to a missing row.
    """
    key = connection.execute(_HIDDEN_FOREIGN_KEY, {"name": name, "table": table}).first()
    if key is None:  # not a foreign key, or VALIDATE CONSTRAINT sees all rows
        return
    orphans = _orphans(key)
    for tenant_id in _tenants(connection):
        _bind(connection, tenant_id)
        if connection.execute(orphans).first() is not None:
            raise ForeignKeyError(
                f"rows of {key.child} refer to missing rows of {key.parent} (tenant {tenant_id}, {name})",
                constraint=name,
                hint="correct or delete these rows first, with `backfill` in a revision before this one",
            )
    _bind(connection, None)


def _orphans(key: Row[tuple[str, ...]]) -> TextClause:
    return text(
        f"SELECT 1 FROM ONLY {key.child} AS child WHERE {key.is_given}"  # noqa: S608 - the server has quoted the names
        f" AND NOT EXISTS (SELECT FROM {key.parent} AS parent WHERE {key.refers}) LIMIT 1"
    )


def _tenants(connection: Connection) -> Iterator[UUID]:
    """Yield the id of every tenant. The registry is readable without a tenant; a new tenant has a later UUIDv7."""
    after = UUID(int=0)
    while page := connection.scalars(_TENANTS_AFTER, {"after": after, "page": TENANTS_PER_QUERY}).all():
        yield from page
        after = page[-1]


def _bind(connection: Connection, tenant_id: UUID | None) -> None:
    """Bind the rest of the transaction to a tenant; None binds it to no tenant."""
    connection.execute(_BIND, {"tenant_id": tenant_id})


def create_functions(folder: Path, *names: str) -> None:
    """Create a revision's SQL functions in the schema of the tables; replace those with the same name and parameters.

    Args:
        folder: The folder with the frozen copies of the revision, `<function>.sql`, in which `{schema}` stands for the
            schema.
        names: The files to use, without the suffix; by default all.
    """
    schema = _schema()
    for file in sorted(folder.glob("*.sql")):
        if names and file.stem not in names:
            continue
        body = file.read_text(encoding="utf-8").replace("{schema}", schema)
        op.execute(body.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1))


def replace_functions(folder: Path) -> None:
    """Replace the SQL functions of a revision whose parameters or results change; create those that are new.

    For PostgreSQL, a function with other parameters is another function: a call that fits both is ambiguous. Calls
    of the previous release find the new function if its further parameters are last and have defaults. Privileges that
    were granted on the dropped function alone are lost; `bootstrap` grants them on all future functions.

    Args:
        folder: The folder that `create_functions` takes.
    """
    drop_functions(folder)
    create_functions(folder)


def drop_functions(folder: Path) -> None:
    """Drop the SQL functions of a revision, if they exist.

    Args:
        folder: The folder that `create_functions` took.
    """
    schema = _schema()
    for file in sorted(folder.glob("*.sql"), reverse=True):
        for name in _SIGNATURE.findall(file.read_text(encoding="utf-8")):
            op.execute(f"-- squawk-ignore ban-drop-function\nDROP FUNCTION IF EXISTS {schema}.{name}")


def _schema() -> str:
    """Return the schema of the tables, quoted; that of the settings or `public` if the SQL is printed."""
    connection = _online()
    if connection is None:
        schema = op.get_context().opts.get(SCHEMA)
        return f'"{schema}"' if schema else "public"
    return str(connection.scalar(text("SELECT quote_ident(current_schema())")))


@contextmanager
def autocommit_block(operation: str) -> Iterator[Connection | None]:
    """Run statements in autocommit; yield the connection, or None if only the SQL is printed.

    The block must come first in its revision. Entering it commits the earlier statements of the revision without the
    revision's row in the version table: an interrupted migration could not be repeated. Statements after the block
    are in one transaction with that row.

    Args:
        operation: The name of the operation, for the error.

    Raises:
        DatabaseError: The block is not first in its revision.
    """
    migration = op.get_context()
    if migration.as_sql:
        with migration.autocommit_block():
            yield None
        return
    driver: Any = op.get_bind().connection.driver_connection
    # SQLAlchemy sends BEGIN with the first statement: the driver knows whether the revision has executed one.
    if driver.is_in_transaction():
        raise DatabaseError(
            f"{operation} must come first in its revision: it commits the statements before it, and a migration that is"
            " interrupted afterwards could not be repeated",
            hint=f"move {operation} into its own revision",
        )
    failure: BaseException | None = None
    try:
        with migration.autocommit_block():
            try:
                yield cast("Connection", migration.connection)
            except BaseException as error:
                failure = error
                raise
    except BaseException:
        # After a lost connection, Alembic's exit of the block fails too, with an error that hides the first one.
        if failure is not None:
            raise failure  # noqa: B904 - it is the error that is being handled
        raise


def _drop_index(name: str) -> None:
    op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {_quote(name)}")


def _online() -> Connection | None:
    return None if op.get_context().as_sql else op.get_bind()


@contextmanager
def _long_lock_timeout(connection: Connection | None) -> Iterator[None]:
    """Set a longer `lock_timeout`: operations with CONCURRENTLY wait for old transactions, and no session for them."""
    if connection is None:
        op.execute(f"SET lock_timeout = '{CONCURRENT_LOCK_SECONDS}s'")
        yield
        op.execute(f"SET lock_timeout = '{DEFAULT_LOCK_SECONDS:.0f}s'")  # the value at the beginning of the script
        return
    before = connection.scalar(text("SHOW lock_timeout"))
    connection.execute(text(f"SET lock_timeout = '{CONCURRENT_LOCK_SECONDS}s'"))
    try:
        yield
    finally:
        if not connection.invalidated:
            connection.execute(text(f"SET lock_timeout = '{before}'"))
