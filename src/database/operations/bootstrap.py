"""bootstrap: the database, its owner, the application's role and who makes backups; again and again."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from src.config import Settings
from src.config.environment import Purpose, named_target
from src.database.errors import (
    AuthenticationFailed,
    ConfigurationError,
    ConnectionFailed,
    DatabaseError,
    DatabaseMissing,
)
from src.database.migrate.revision_status import OTHER_DATABASE, revision_of
from src.database.operations.administration import open_connection, reach_target
from src.database.operations.adoption import FOREIGN_ROLES_AND_DATABASE, FOREIGN_TABLES
from src.database.operations.bootstrap_plan import INSIDE, REFUSALS, ROLES_AND_DATABASE, Step
from src.database.operations.scram import create_verifier, is_verifier_of
from src.database.resolve import resolve_target
from src.database.target import Target
from src.database.translation import translate

__all__ = ["Bootstrapped", "Refusal", "Roles", "bootstrap", "roles_of"]

LOCK_KEY: Final = 0x7468_6262
"""Two at once would trip over each other's roles."""
_LONGEST_NAME: Final = 63  # bytes; PostgreSQL cuts what is longer, and would not find it again
_PLACEHOLDER: Final = re.compile(r":'(\w+)'")
_VERIFIER: Final = re.compile(r"'SCRAM-SHA-256\$[^']*'")
_AND_MORE: Final = "-- then privileges on the database, the schema public and its tables, and default privileges"


@dataclass(frozen=True, slots=True)
class Login:
    """A role that connects."""

    name: str
    target: Target | None
    """Where it connects to; its password is there."""

    @property
    def password(self) -> str | None:
        """None: it has none, or proves itself otherwise."""
        return self.target.password if self.target else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """What is to be."""

    database: str
    owner: Login
    application: Login
    backup: Login | None
    limits: Mapping[str, str]
    """Milliseconds, by parameter."""

    @property
    def logins(self) -> dict[str, Login]:
        """By what they are for."""
        found = {"owner": self.owner, "application": self.application}
        return found if self.backup is None else {**found, "backup": self.backup}

    def values(self, verifiers: Mapping[str, str], *, adopt: bool) -> dict[str, str]:
        """Return what the steps' placeholders stand for; empty is what there is none of."""
        return {
            "adopt": "yes" if adopt else "",
            "database": self.database,
            "backup": "",
            **{purpose: login.name for purpose, login in self.logins.items()},
            **{f"{purpose}_verifier": verifiers.get(purpose, "") for purpose in ("owner", "application", "backup")},
            "statement_timeout": self.limits["statement_timeout"],
            "lock_timeout": self.limits["lock_timeout"],
            "idle_timeout": self.limits["idle_in_transaction_session_timeout"],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A statement that the server did not take."""

    statement: str
    aim: str
    reason: str
    remedy: str
    is_optional: bool


@dataclass(slots=True)
class Bootstrapped:
    """What was done, without anything secret, and what could not be."""

    changed: list[str] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)

    @property
    def is_stopped(self) -> bool:
        """Whether something was refused that the rest depends on."""
        return any(not refusal.is_optional for refusal in self.refused)


def roles_of(settings: Settings) -> Roles:
    """Read the names and passwords from the URLs.

    DATABASE_URL's user is the application, DATABASE_MIGRATION_URL's the owner, DATABASE_BACKUP_URL's who makes backups.

    Raises:
        ConfigurationError: They name no two roles of one database.
    """
    application, owner = resolve_target(settings), resolve_target(settings, purpose="migrations")
    if owner.user == application.user:
        raise ConfigurationError(
            "DATABASE_MIGRATION_URL must be set, and name another user than the application's: who owns the tables can"
            f" switch row-level security off; both are {application.user}"
        )
    if owner.database != application.database:
        raise ConfigurationError(
            f"DATABASE_MIGRATION_URL must name the database of DATABASE_URL, {application.database},"
            f" got {owner.database}"
        )
    backup = _backup_target(settings)
    if backup is not None and backup.user in {owner.user, application.user}:
        raise ConfigurationError(
            f"DATABASE_BACKUP_URL must name a user of its own, got {backup.user}: row-level security binds the owner"
            " and the application"
        )
    roles = Roles(
        database=application.database,
        owner=Login(owner.user, owner),
        application=Login(application.user, application),
        backup=None if backup is None else Login(backup.user, backup),
        limits={
            "statement_timeout": str(application.statement_timeout),
            "lock_timeout": str(application.lock_timeout),
            "idle_in_transaction_session_timeout": str(settings.DATABASE_IDLE_TRANSACTION_TIMEOUT),
        },
    )
    _check_names([roles.database, *(login.name for login in roles.logins.values())])
    return roles


async def bootstrap(
    settings: Settings, *, adopt: bool = False, on_plan: Callable[[Sequence[str]], None] | None = None
) -> Bootstrapped:
    """Create and change what `roles_of` describes, as the administrator.

    Args:
        settings: The URLs of the roles and of the administrator.
        adopt: Change a database and roles that somebody else uses, too. A database that other migrations made is
            refused all the same.
        on_plan: Called with the statements that are to be executed, before the first of them; passwords are masked.

    Raises:
        ConfigurationError: The URLs cannot be right, name a role that row-level security does not bind, or, without
            `adopt`, name a database or a role that somebody else uses. Nothing was changed.
        ConnectionFailed: The server cannot be reached.
    """
    roles = roles_of(settings)
    administrator = await reach_target(settings, "administration")
    done = Bootstrapped()
    async with open_connection(administrator) as connection:
        await connection.execute(f"SELECT pg_advisory_lock({LOCK_KEY})")
        values = roles.values({}, adopt=adopt)
        if refused := await connection.fetch(fill(REFUSALS.query, values)):
            raise ConfigurationError("; ".join(str(row[0]) for row in refused), hint=REFUSALS.remedy)
        await _check_origin(connection, administrator, roles.database)
        values = roles.values(await _verifiers_to_set(connection, roles), adopt=adopt)
        plan, foreign = await _plan(connection, administrator, values)
        if foreign:
            raise ConfigurationError("\n".join(_told_of_others(foreign, plan)), hint=FOREIGN_TABLES.remedy)
        if on_plan is not None:
            on_plan(plan)
        await _take(connection, ROLES_AND_DATABASE, values, done)
        if not done.is_stopped:
            async with open_connection(administrator, database=roles.database) as inside:
                await _take(inside, INSIDE, values, done)
    return done


async def _plan(
    connection: asyncpg.Connection[Any], administrator: Target, values: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Return the statements that are needed, and what of the database and the roles somebody else uses.

    Later steps depend on earlier ones. Those of roles and of the database are executed in a transaction that is rolled
    back; those inside the database, which lock tables, are not executed.
    """
    foreign = await _first_column(connection, FOREIGN_ROLES_AND_DATABASE, values)
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", values["database"]):
        return await _try_out(connection, ROLES_AND_DATABASE, values), foreign
    async with AsyncExitStack() as stack:
        try:
            inside = await stack.enter_async_context(open_connection(administrator, database=values["database"]))
        except DatabaseError:  # before the steps are taken, the administrator may not be allowed to connect
            return await _try_out(connection, ROLES_AND_DATABASE, values), foreign
        foreign += await _first_column(inside, FOREIGN_TABLES, values)
        return await _try_out(inside, (*ROLES_AND_DATABASE, *INSIDE), values), foreign


async def _try_out(
    connection: asyncpg.Connection[Any], steps: tuple[Step, ...], values: Mapping[str, str]
) -> list[str]:
    plan: list[str] = []
    is_complete = steps[-1] is INSIDE[-1]
    transaction = connection.transaction()
    await transaction.start()
    try:
        for step in steps:
            try:
                async with connection.transaction():
                    needed = await _first_column(connection, step, values)
            except asyncpg.PostgresError:  # it depends on a database or a role that is not there yet
                is_complete = False
                continue
            for statement in needed:
                plan.append(_masked(statement))
                if step in ROLES_AND_DATABASE and not statement.startswith("CREATE DATABASE"):
                    with suppress(asyncpg.PostgresError):  # it is reported where it is executed
                        async with connection.transaction():
                            await connection.execute(statement)
    finally:
        await transaction.rollback()
    return plan if is_complete else [*plan, _AND_MORE]


async def _first_column(connection: asyncpg.Connection[Any], step: Step, values: Mapping[str, str]) -> list[str]:
    return [str(row[0]) for row in await connection.fetch(fill(step.query, values))]


def _told_of_others(foreign: Sequence[str], plan: Sequence[str]) -> list[str]:
    return [f"{'; '.join(foreign)}; nothing was changed. bootstrap would execute:", *(f"  {line}" for line in plan)]


def _masked(statement: str) -> str:
    return _VERIFIER.sub("'***'", statement)


async def _check_origin(connection: asyncpg.Connection[Any], administrator: Target, database: str) -> None:
    """Check that no other migrations made the database, whose owners and privileges would be changed.

    Raises:
        ConfigurationError: Other migrations made it.
    """
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", database):
        return
    try:
        async with open_connection(administrator, database=database) as inside:
            revision = await revision_of(inside)
    except DatabaseError:  # no superuser may be kept out before the steps are taken, or from alembic_version
        return
    if revision.is_foreign:
        raise ConfigurationError(f"{revision.foreign_origin()}; nothing was changed", hint=OTHER_DATABASE)


def fill(query: str, values: Mapping[str, str]) -> str:
    """Put the values into a step's query, as psql would."""
    return _PLACEHOLDER.sub(lambda found: quote_literal(values[found[1]]), query)


def quote_literal(value: str) -> str:
    """Write a text as SQL has it."""
    quoted = "'" + value.replace("'", "''") + "'"
    return f" E{quoted.replace(chr(92), chr(92) * 2)}" if "\\" in value else quoted


async def _take(
    connection: asyncpg.Connection[Any], steps: tuple[Step, ...], values: Mapping[str, str], done: Bootstrapped
) -> None:
    """Go through the steps until one is refused that others depend on."""
    for step in steps:
        for row in await connection.fetch(fill(step.query, values)):
            statement = str(row[0])
            shown = _masked(statement)
            try:
                await connection.execute(statement)
            except asyncpg.PostgresError as error:
                told = translate(error)
                done.refused.append(
                    Refusal(
                        statement=shown,
                        aim=step.aim,
                        reason=str(told.args[0]) if told else type(error).__name__,
                        remedy=step.remedy,
                        is_optional=step.is_optional,
                    )
                )
                if done.is_stopped:
                    return
            else:
                done.changed.append(shown)


async def _verifiers_to_set(connection: asyncpg.Connection[Any], roles: Roles) -> dict[str, str]:
    """Return a verifier for each role whose password is not the URL's already."""
    names = [login.name for login in roles.logins.values()]
    there = {row[0] for row in await connection.fetch("SELECT rolname FROM pg_roles WHERE rolname = ANY ($1)", names)}
    stored: dict[str, str | None] | None = None
    if await connection.fetchval("SELECT has_table_privilege('pg_catalog.pg_authid', 'SELECT')"):
        rows = await connection.fetch("SELECT rolname, rolpassword FROM pg_authid WHERE rolname = ANY ($1)", names)
        stored = {row[0]: row[1] for row in rows}
    found = {}
    for purpose, login in roles.logins.items():
        if login.password is None:
            continue
        is_set = login.name in there and (
            is_verifier_of(stored[login.name] or "", login.password) if stored is not None else await _logs_in(login)
        )
        if not is_set:
            found[purpose] = create_verifier(login.password)
    return found


async def _logs_in(login: Login) -> bool:
    """Say whether the server takes the password: who may not read the verifiers can only try."""
    assert login.target is not None  # noqa: S101 - it is where the password is
    try:
        async with open_connection(login.target):
            return True
    except (DatabaseMissing, AuthenticationFailed) as error:
        return isinstance(error, DatabaseMissing)  # the server looks for the database after the password
    except ConnectionFailed:
        return False
    except DatabaseError:  # no right to connect: that too comes after the password
        return True


def _backup_target(settings: Settings) -> Target | None:
    purpose: Purpose = "backup"
    if settings.DATABASE_BACKUP_URL is None or named_target(settings, purpose) is None:
        return None
    return resolve_target(settings, purpose=purpose)


def _check_names(names: list[str]) -> None:
    for name in names:
        if len(name.encode()) > _LONGEST_NAME:
            raise ConfigurationError(
                f"the names of roles and of the database must be at most {_LONGEST_NAME} bytes, got {name!r}"
            )
