"""bootstrap: create the database, its owner, the application's role and the role of backups, or repair them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

import asyncpg

from src.config import Settings
from src.database.connect import command_connection
from src.database.errors import (
    ConfigurationError,
    ConnectionFailed,
    DatabaseError,
    DatabaseMissing,
)
from src.database.migrate import OTHER_DATABASE, revision_of, service_revisions
from src.database.operations.bootstrap_plan import PlanStep, bootstrap_plan, fill, script_body
from src.database.operations.scram import create_verifier, is_verifier_of
from src.database.session import reach_target, resolve_target
from src.database.target import Target
from src.database.translation import translate

LOCK_KEY: Final = 0x7468_6262
"""The advisory lock of `bootstrap`: of two concurrent runs, one could fail to create a role that the other creates."""
_LONGEST_NAME: Final = 63  # bytes; PostgreSQL truncates a longer name silently
_VERIFIER: Final = re.compile(r"'SCRAM-SHA-256\$[^']*'")
_AND_MORE: Final = "-- then privileges on the database, the schema and its tables, and default privileges"


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """The roles and the database that `bootstrap` creates.

    Args:
        owner: The target with the name and the password of the owner.
        application: The same of the application; its time limits become the defaults of the role.
        backup: The same of the role of backups; None if the settings name none.
        idle_timeout: The application's idle_in_transaction_session_timeout, in milliseconds.
        schema: The schema of the tables.
    """

    owner: Target
    application: Target
    backup: Target | None
    idle_timeout: int
    schema: str

    @property
    def database(self) -> str:
        """The name of the database."""
        return self.application.database

    @property
    def targets(self) -> dict[str, Target]:
        """The roles by purpose."""
        targets = {"owner": self.owner, "application": self.application}
        return targets if self.backup is None else {**targets, "backup": self.backup}

    def values(self, verifiers: Mapping[str, str], *, adopt: bool) -> dict[str, str]:
        """Return the values of the plan's variables; the value of a role or a verifier that does not exist is empty."""
        return {
            "adopt": "yes" if adopt else "",
            "database": self.database,
            "schema": self.schema,
            "backup": "",
            **{purpose: target.user for purpose, target in self.targets.items()},
            **{f"{purpose}_verifier": verifiers.get(purpose, "") for purpose in ("owner", "application", "backup")},
            "statement_timeout": str(self.application.statement_timeout),
            "lock_timeout": str(self.application.lock_timeout),
            "idle_timeout": str(self.idle_timeout),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A statement that the server rejected.

    Args:
        statement: The statement, with its verifier masked.
        aim: The aim of its step.
        reason: The error of the server.
        remedy: How to proceed.
        is_optional: True if the later steps do not need its step.
    """

    statement: str
    aim: str
    reason: str
    remedy: str
    is_optional: bool


@dataclass(slots=True)
class Bootstrapped:
    """The statements that were executed, with their verifiers masked, and those that the server rejected."""

    changed: list[str] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)

    @property
    def is_stopped(self) -> bool:
        """True if a statement was rejected that later steps need."""
        return any(not refusal.is_optional for refusal in self.refused)


def roles_of(settings: Settings) -> Roles:
    """Return the roles that the URLs name.

    The user of DATABASE_URL is the application, the user of DATABASE_MIGRATION_URL the owner, and the user of
    DATABASE_BACKUP_URL the role of backups.

    Raises:
        ConfigurationError: The URLs do not name different roles of one database, or a name is too long.
    """
    application, owner = resolve_target(settings), resolve_target(settings, purpose="migrations")
    if owner.user == application.user:
        raise ConfigurationError(
            "DATABASE_MIGRATION_URL must be set, and name another user than DATABASE_URL: the owner of the tables can"
            f" switch row-level security off; both are {application.user}"
        )
    if owner.database != application.database:
        raise ConfigurationError(
            f"DATABASE_MIGRATION_URL must name the database of DATABASE_URL, {application.database},"
            f" got {owner.database}"
        )
    backup = None if settings.DATABASE_BACKUP_URL is None else resolve_target(settings, purpose="backup")
    if backup is not None and backup.user in {owner.user, application.user}:
        raise ConfigurationError(
            f"DATABASE_BACKUP_URL must name a third user, got {backup.user}: row-level security would hide rows from"
            " the owner and from the application"
        )
    idle_timeout = settings.DATABASE_IDLE_TRANSACTION_TIMEOUT
    schema = settings.DATABASE_SCHEMA or "public"
    roles = Roles(owner=owner, application=application, backup=backup, idle_timeout=idle_timeout, schema=schema)
    for name in (roles.database, *(target.user for target in roles.targets.values())):
        if len(name.encode()) > _LONGEST_NAME:
            raise ConfigurationError(
                f"the names of roles and of the database must be at most {_LONGEST_NAME} bytes, got {name!r}"
            )
    return roles


async def bootstrap(
    settings: Settings, *, adopt: bool = False, on_plan: Callable[[Sequence[str]], None] | None = None
) -> Bootstrapped:
    """Create the roles and the database that `roles_of` describes, or repair their privileges, as the administrator.

    Args:
        settings: The URLs of the roles and of the administrator (DATABASE_ADMIN_URL).
        adopt: Also change a database and roles that other services use. A database that other migrations made is
            never changed.
        on_plan: Called with the planned statements before the first of them is executed; verifiers are masked.

    Returns:
        The executed and the rejected statements.

    Raises:
        ConfigurationError: The URLs are invalid, name a superuser, or, without `adopt`, name a database or a role that
            another service uses. Nothing was changed.
        ConnectionFailed: The server cannot be reached.
    """
    roles = roles_of(settings)
    administrator = await reach_target(settings, "administration")
    target = replace(administrator, database=roles.database)
    result = Bootstrapped()
    async with command_connection(administrator) as connection:
        # The server releases the lock at the end of the session, however this process ends.
        await connection.execute(f"SELECT pg_advisory_lock({LOCK_KEY})")
        await _refuse(connection, "refusals", roles.values({}, adopt=adopt))
        exists = await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", roles.database)
        if exists:
            await _check_origin(target, of_service=service_revisions(settings))
        values = roles.values(await _verifiers_to_set(connection, roles), adopt=adopt)
        plan = await _plan(connection, target if exists else None, values)
        if on_plan is not None:
            on_plan(plan)
        await _execute(connection, _steps("roles"), values, result)
        if not result.is_stopped:
            async with command_connection(target) as inside:
                await _execute(inside, _steps("inside"), values, result)
    return result


def bootstrap_script(settings: Settings, *, adopt: bool = False) -> str:
    """Return the plan as a script for psql, which contains verifiers and no passwords.

    Args:
        settings: The URLs of the roles.
        adopt: Also change a database and roles that other services use.

    Raises:
        ConfigurationError: The URLs are invalid.
    """
    roles = roles_of(settings)
    passwords = {purpose: target.password for purpose, target in roles.targets.items()}
    verifiers = {purpose: create_verifier(password) for purpose, password in passwords.items() if password is not None}
    values = roles.values(verifiers, adopt=adopt)
    variables = "".join(f"\\set {name} {_psql_quoted(value)}\n" for name, value in values.items())
    return (
        "-- Run this by psql, as a superuser or as a role with CREATEROLE and CREATEDB:\n"
        "--   psql -X --dbname postgres --file <this file>\n"
        "-- It can be run again. It refuses a database or a role that another service uses, unless adopt is 'yes'.\n"
        f"\\set ON_ERROR_STOP on\n{variables}{script_body()}"
    )


def _steps(*phases: str) -> list[PlanStep]:
    return [step for step in bootstrap_plan() if step.phase in phases]


async def _refuse(connection: asyncpg.Connection[Any], phase: str, values: Mapping[str, str]) -> None:
    """Raise ConfigurationError with the reasons of a phase's refusals, if there are any."""
    for step in _steps(phase):
        if reasons := await _rows(connection, step, values):
            raise ConfigurationError("; ".join(reasons), hint=step.remedy)


async def _plan(connection: asyncpg.Connection[Any], target: Target | None, values: Mapping[str, str]) -> list[str]:
    """Return the statements that are needed, with their verifiers masked.

    Args:
        connection: A connection to the maintenance database.
        target: The database; None if it does not exist yet.
        values: The values of the plan's variables.

    Raises:
        ConfigurationError: Other services use the database or a role.
    """
    (foreign_roles,), (foreign_tables,) = _steps("foreign roles"), _steps("foreign tables")
    foreign = await _rows(connection, foreign_roles, values)
    async with AsyncExitStack() as stack:
        inside: asyncpg.Connection[Any] | None = None
        if target is not None:
            with suppress(DatabaseError):  # the administrator may lack CONNECT until the plan has been executed
                inside = await stack.enter_async_context(command_connection(target))
        if inside is None:
            plan = await _dry_run(connection, _steps("roles"), values)
        else:
            foreign += await _rows(inside, foreign_tables, values)
            plan = await _dry_run(inside, _steps("roles", "inside"), values)
    if foreign:
        statements = "".join(f"\n  {statement}" for statement in plan)
        raise ConfigurationError(
            f"{'; '.join(foreign)}; nothing was changed. `thea-db bootstrap` would execute:{statements}",
            hint=foreign_tables.remedy,
        )
    return plan


async def _dry_run(
    connection: asyncpg.Connection[Any], steps: Sequence[PlanStep], values: Mapping[str, str]
) -> list[str]:
    """Return the statements of steps.

    The query of a step depends on the statements before it. Those for roles are executed in a transaction that is
    rolled back. Those inside the database are not executed, because they lock tables, and neither is CREATE DATABASE,
    which no transaction may contain.
    """
    plan: list[str] = []
    is_complete = steps[-1].phase == "inside"
    transaction = connection.transaction()
    await transaction.start()
    try:
        for step in steps:
            try:
                async with connection.transaction():
                    needed = await _rows(connection, step, values)
            except asyncpg.PostgresError:  # the query needs a database or a role that does not exist yet
                is_complete = False
                continue
            for statement in needed:
                plan.append(_masked(statement))
                if step.phase == "roles" and not statement.startswith("CREATE DATABASE"):
                    with suppress(asyncpg.PostgresError):  # `_execute` reports the error
                        async with connection.transaction():
                            await connection.execute(statement)
    finally:
        await transaction.rollback()
    return plan if is_complete else [*plan, _AND_MORE]


async def _execute(
    connection: asyncpg.Connection[Any], steps: Sequence[PlanStep], values: Mapping[str, str], result: Bootstrapped
) -> None:
    """Execute steps, and record their statements, until the server rejects one that later steps need."""
    for step in steps:
        for statement in await _rows(connection, step, values):
            try:
                await connection.execute(statement)
            except asyncpg.PostgresError as error:
                translated = translate(error)
                result.refused.append(
                    Refusal(
                        statement=_masked(statement),
                        aim=step.aim,
                        reason=str(translated.args[0]) if translated else type(error).__name__,
                        remedy=step.remedy,
                        is_optional=step.is_optional,
                    )
                )
                if result.is_stopped:
                    return
            else:
                result.changed.append(_masked(statement))


async def _rows(connection: asyncpg.Connection[Any], step: PlanStep, values: Mapping[str, str]) -> list[str]:
    return [str(row[0]) for row in await connection.fetch(fill(step.query, values))]


def _masked(statement: str) -> str:
    return _VERIFIER.sub("'***'", statement)


async def _check_origin(target: Target, *, of_service: Collection[str]) -> None:
    """Check that no other migrations made the database: `bootstrap` would change its owner and its privileges.

    Raises:
        ConfigurationError: Other migrations made the database.
    """
    try:
        async with command_connection(target) as inside:
            revision = await revision_of(inside, of_service=of_service)
    except DatabaseError:  # the administrator, if no superuser, may lack the right to connect or to read the revision
        return
    if revision.is_foreign:
        raise ConfigurationError(f"{revision.foreign_origin()}; nothing was changed", hint=OTHER_DATABASE)


async def _verifiers_to_set(connection: asyncpg.Connection[Any], roles: Roles) -> dict[str, str]:
    """Return a new verifier for each role whose stored password is not that of its URL, by purpose."""
    may_read = await connection.fetchval("SELECT has_table_privilege('pg_catalog.pg_authid', 'SELECT')")
    stored = "SELECT rolpassword FROM pg_authid WHERE rolname = $1"
    verifiers = {}
    for purpose, target in roles.targets.items():
        if target.password is None:
            continue
        if may_read:
            is_set = is_verifier_of(await connection.fetchval(stored, target.user) or "", target.password)
        else:
            is_set = await _can_log_in(target)
        if not is_set:
            verifiers[purpose] = create_verifier(target.password)
    return verifiers


async def _can_log_in(target: Target) -> bool:
    """Return True if the role exists and the server accepts its password.

    Only a superuser may read pg_authid; every other administrator has to try the password.
    """
    try:
        async with command_connection(target):
            return True
    except DatabaseMissing:  # the server checks the password first
        return True
    except ConnectionFailed:
        return False
    except DatabaseError:  # the role lacks CONNECT, which the server checks after the password too
        return True


def _psql_quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"
