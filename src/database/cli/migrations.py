"""The commands of migrations: upgrade, downgrade, stamp, current, history, revision, sql.

They run from a checkout or an installed wheel, without an alembic.ini.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from src import config
from src.config.constants import MIGRATION_ATTEMPTS, MIGRATION_WAIT_SECONDS
from src.database.cli.output import EXIT_FAILED, Json, print_json
from src.database.cli.running import run_coroutine
from src.database.errors import ConfigurationError

if TYPE_CHECKING:
    from src.database.migrate import HistoryEntry, HistoryName, Migrated

HistoryOfRevision = Annotated[
    Literal["package", "service"] | None,
    typer.Option(
        "--history",
        help="The history of the revision: that of thea-database, or that of the service in"
        " DATABASE_SERVICE_MIGRATIONS. If the settings name a service, this option is required, except for `upgrade`"
        " and `sql` to head, which include both histories.",
    ),
]
ShownHistory = Annotated[
    Literal["package", "service"] | None,
    typer.Option(
        "--history",
        help="Show only this history: that of thea-database, or that of the service in DATABASE_SERVICE_MIGRATIONS.",
    ),
]
ContinuedHistory = Annotated[
    Literal["package", "service"] | None,
    typer.Option(
        "--history",
        help="The history that the migration continues; by default that of the service in DATABASE_SERVICE_MIGRATIONS"
        " if it is set, else that of thea-database.",
    ),
]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait for another process that migrates.")]
LockTimeout = Annotated[
    float | None,
    typer.Option(min=0, help="Seconds to wait for each lock; by default the URL's lock_timeout, or 5; 0 is no limit."),
]
Attempts = Annotated[
    int, typer.Option(min=1, help="The number of attempts if a migration does not get a lock in time.")
]

_KEYS = {"package": "revisions", "service": "service"}

migrations_app = typer.Typer(pretty_exceptions_show_locals=False)


@migrations_app.command()
def upgrade(
    revision: Annotated[str, typer.Argument(help="The revision to upgrade to; +1 is the next revision.")] = "head",
    *,
    history: HistoryOfRevision = None,
    wait: Wait = MIGRATION_WAIT_SECONDS,
    lock_timeout: LockTimeout = None,
    attempts: Attempts = MIGRATION_ATTEMPTS,
    as_json: Json = False,
) -> None:
    """Upgrade the schema to the newest revision: the tables of thea-database, then those of the service.

    If several processes run this command at the same time, one of them migrates, and the others wait.
    """
    from src.database.migrate import Patience
    from src.database.migrate import upgrade as run_upgrade

    patience = Patience(migrator_seconds=wait, lock_seconds=lock_timeout, attempts=attempts)
    migrated = run_coroutine(run_upgrade(config.get_settings(), _checked(revision), of=history, patience=patience))
    _show(migrated, as_json=as_json)


@migrations_app.command(context_settings={"ignore_unknown_options": True})  # -1 is a revision
def downgrade(
    revision: Annotated[
        str, typer.Argument(help="The revision to downgrade to; -1 is the previous revision, base is an empty schema.")
    ],
    *,
    yes: Annotated[
        bool, typer.Option("--yes", help="Confirm the loss of data; required in staging and production.")
    ] = False,
    history: HistoryOfRevision = None,
    wait: Wait = MIGRATION_WAIT_SECONDS,
    lock_timeout: LockTimeout = None,
    attempts: Attempts = MIGRATION_ATTEMPTS,
    as_json: Json = False,
) -> None:
    """Revert migrations. The tables and columns that they created are dropped, with their data."""
    from src.database.migrate import Patience
    from src.database.migrate import downgrade as run_downgrade

    settings = config.get_settings()
    if not (yes or settings.is_local):
        raise ConfigurationError(
            f"a downgrade drops tables and columns with their data: needs --yes if ENVIRONMENT={settings.ENVIRONMENT}",
            hint="to return to the previous release, no downgrade is needed: that release runs on the new schema",
        )
    patience = Patience(migrator_seconds=wait, lock_seconds=lock_timeout, attempts=attempts)
    migrated = run_coroutine(run_downgrade(settings, _checked(revision), of=history, patience=patience))
    _show(migrated, " reverted", as_json=as_json)


@migrations_app.command()
def stamp(
    revision: Annotated[str, typer.Argument(help="The revision that the schema already has.")],
    *,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="Confirm that the schema has this revision; required in staging and production."),
    ] = False,
    history: HistoryOfRevision = None,
    as_json: Json = False,
) -> None:
    """Record a revision without running a migration. The schema must already have this revision."""
    from src.database.migrate import stamp as run_stamp

    settings = config.get_settings()
    if not (yes or settings.is_local):
        raise ConfigurationError(
            "a wrong stamp makes later migrations fail, or skips some: stamp needs --yes if"
            f" ENVIRONMENT={settings.ENVIRONMENT}",
            hint="`thea-db verify` compares the schema with the newest revision, and names the revision to stamp",
        )
    stamped = run_coroutine(run_stamp(settings, _checked(revision), of=history))
    if as_json:
        print_json(asdict(stamped), indent=None)
        return
    before, after = _revisions(stamped.before, stamped.history), _revisions(stamped.after, stamped.history)
    if before == after:
        typer.echo(f"{after} was already recorded; nothing was changed")
    else:
        typer.echo(f"recorded {after} in place of {before}; no migration was run")


@migrations_app.command()
def current(
    check_heads: Annotated[
        bool, typer.Option("--check-heads", help="Exit code 1 if a revision is not the newest of its history.")
    ] = False,
    history: ShownHistory = None,
    as_json: Json = False,
) -> None:
    """Show the revision of the database, and that of the service's history."""
    from src.database.migrate import current as read_current
    from src.database.migrate import named_history

    settings = config.get_settings()
    found = {
        name: (run_coroutine(read_current(settings, of=name)), named_history(settings, name).heads())
        for name in _names(history)
    }
    is_newest = all(set(at) == set(newest) for at, newest in found.values())
    if as_json:
        documents = {
            name: {"current": at, "heads": newest, "is_head": set(at) == set(newest)}
            for name, (at, newest) in found.items()
        }
        print_json(documents.get("package", {}) | {"service": documents.get("service")}, indent=None)
    else:
        for name, (at, newest) in found.items():
            recorded = ", ".join(at) or "no revision is recorded"
            suffix = " (head)" if set(at) == set(newest) else f"; the newest is {', '.join(newest)}"
            typer.echo(f"{_prefix(name)}{recorded}{suffix}")
    if check_heads and not is_newest:
        raise typer.Exit(EXIT_FAILED)


@migrations_app.command("history")
def history_command(
    indicate_current: Annotated[
        bool, typer.Option("--indicate-current", "-i", help="Mark the migrations that the database has.")
    ] = False,
    history: ShownHistory = None,
    as_json: Json = False,
) -> None:
    """List the migrations of this installation, and those of the service, newest first."""
    from src.database.migrate import history as read_history

    settings = config.get_settings()
    entries = {
        name: run_coroutine(read_history(settings, of=name, queries=indicate_current)) for name in _names(history)
    }
    if as_json:
        print_json({_KEYS[name]: [asdict(entry) for entry in of] for name, of in entries.items()}, indent=None)
        return
    for name, of in entries.items():
        for entry in of:
            typer.echo(f"{_prefix(name)}{_line(entry)}")


@migrations_app.command()
def revision(
    message: Annotated[str, typer.Option("--message", "-m", help="A short description.")],
    autogenerate: Annotated[
        bool,
        typer.Option("--autogenerate", help="Write the operations that make the database match the models."),
    ] = False,
    history: ContinuedHistory = None,
    as_json: Json = False,
) -> None:
    """Write a new migration from the template: into the folder of the service, or into the checkout."""
    from src.database.migrate import revision as write_revision

    file = run_coroutine(write_revision(config.get_settings(), message, autogenerate=autogenerate, of=history))
    if as_json:
        print_json({"file": str(file)}, indent=None)
    else:
        typer.echo(f"written: {file}")


@migrations_app.command()
def sql(
    revisions: Annotated[
        str, typer.Argument(help="The revision to upgrade to; <from>:<to> begins after the revision <from>.")
    ] = "head",
    down: Annotated[bool, typer.Option("--down", help="Print the SQL of the downgrade; needs <from>:<to>.")] = False,
    history: HistoryOfRevision = None,
) -> None:
    """Print the SQL of migrations, without a connection to a database."""
    from src.database.migrate import sql as write_sql

    settings = config.get_settings()
    typer.echo(run_coroutine(write_sql(_checked(revisions), down=down, settings=settings, of=history)), nl=False)


def _checked(revision: str) -> str:
    """Return the revision.

    Raises:
        ConfigurationError: The revision, or an end of the range, is empty.
    """
    if not all(part.strip() for part in revision.split(":")):
        raise ConfigurationError(
            f"the revision must not be empty, got {revision!r}", hint="for example head, or <from>:<to> for `sql`"
        )
    return revision


def _show(migrated: Migrated, done: str = "", *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(migrated), indent=None)
        return
    for one in (migrated, migrated.service):
        if one is not None:
            count = len(one.steps)
            steps = f"{count} migration{'' if count == 1 else 's'}{done}" if count else "nothing to do"
            schema = "the schema" if one.history == "package" else "the service's schema"
            typer.echo(f"{schema} is at {_revisions(one.after, one.history)}: {steps}")


def _names(history: HistoryName | None) -> tuple[HistoryName, ...]:
    """Return the names of the histories that a command reads."""
    if history is not None:
        return (history,)
    return ("package",) if config.get_settings().DATABASE_SERVICE_MIGRATIONS is None else ("package", "service")


def _prefix(history: HistoryName) -> str:
    return "" if history == "package" else "service: "


def _revisions(revisions: tuple[str, ...], history: HistoryName) -> str:
    from src.database.migrate import named_history

    if not revisions:
        return "base"
    newest = named_history(config.get_settings(), history).heads()
    return ", ".join(revisions) + (" (head)" if set(revisions) == set(newest) else "")


def _line(entry: HistoryEntry) -> str:
    marks = [word for word, holds in (("head", entry.is_head), ("applied", entry.is_applied)) if holds]
    return f"{', '.join(entry.follows) or 'base'} -> {entry.revision}: {entry.message}" + (
        f" ({', '.join(marks)})" if marks else ""
    )
