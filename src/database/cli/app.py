"""The commands of thea-db. A DatabaseError ends the process with one message and exit code 2, without a traceback.

`thea-db --help` imports all modules of commands; a command imports its work when it runs.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from src import config
from src.database.cli.diagram import diagram_app
from src.database.cli.drift import drift_app
from src.database.cli.migrations import migrations_app
from src.database.cli.output import Json, print_error, print_json
from src.database.cli.running import leave, run_coroutine
from src.database.cli.seed import seed_app
from src.database.cli.service import service_app
from src.database.cli.tenant import tenant_app
from src.database.errors import ConfigurationError, DatabaseError, SchemaDriftError

EXIT_STILL_DOWN: int = 1
EXIT_FAILURE: int = 2
EXIT_INTERRUPTED: int = 130

Processes = Annotated[
    int,
    typer.Option(
        min=1, envvar="WEB_CONCURRENCY", help="The number of processes that use the database at the same time."
    ),
]

app = typer.Typer(
    name="thea-db",
    help="The data layer's command: diagnosis, the embedded server, the schema, tenants, a demo.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # local variables hold passwords
)
app.add_typer(tenant_app)
app.add_typer(migrations_app)
app.add_typer(drift_app)
app.add_typer(service_app)
app.add_typer(seed_app)
app.add_typer(diagram_app)


def main() -> None:
    """Run the command."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except DatabaseError as raised:
        error = _explained(raised)
        if "--json" in sys.argv:
            print_json({"error": str(error)}, indent=None)
        print_error(str(error))
        sys.exit(EXIT_FAILURE)


def _explained(error: DatabaseError) -> DatabaseError:
    """Return the error, or its cause if other migrations made the database."""
    if not isinstance(error, SchemaDriftError):
        return error
    from src.database.cli.doctor.schema import explain_drift

    return explain_drift(error, config.get_settings)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("thea-database"))
        raise typer.Exit


@app.callback()
def prepare(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Configure the logs before a command runs."""
    if "--help" in sys.argv:  # it writes no log, and the settings may not be complete yet
        return
    if context.invoked_subcommand == "doctor":  # it reports settings that cannot be read
        config.configure_logging()
    else:
        config.configure_logging(config.get_settings().ENVIRONMENT)


@app.command()
def info(as_json: Json = False) -> None:
    """Show the target of the settings and the source of each setting; exit code 2 if a server cannot be reached."""
    from src.database.cli.info import run_info

    raise typer.Exit(run_info(config.get_settings(), as_json=as_json))


@app.command()
def wait(
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds in all.")] = 60.0,
    interval: Annotated[float, typer.Option(min=0.01, help="Seconds between two attempts.")] = 0.5,
    as_json: Json = False,
) -> None:
    """Wait for the server to start; exit code 1 if it does not in time, 2 immediately if waiting cannot help."""
    from src.database.cli.wait import run_wait

    code = run_wait(config.get_settings(), timeout=timeout, interval=interval, as_json=as_json)
    if code == EXIT_STILL_DOWN:  # a thread may still wait for a name server, and Python would wait for the thread
        leave(code)
    raise typer.Exit(code)


@app.command()
def health(
    *,
    live: Annotated[bool, typer.Option("--live", help="Check only the settings, and not the database.")] = False,
    drift: Annotated[bool, typer.Option("--drift", help="Compare all of the schema too, as `verify` does.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for each check.")] = 2.0,
    as_json: Json = False,
) -> None:
    """Check whether a process with these settings can serve; exit code 1 if not, 2 if the settings cannot be read.

    Degraded is exit code 0: the process serves, and should be repaired.
    """
    from src.database.cli.health import EXIT_UNHEALTHY, run_health

    code = run_health(live=live, drift=drift, timeout_seconds=timeout, as_json=as_json)
    if code == EXIT_UNHEALTHY:  # as above
        leave(code)
    raise typer.Exit(code)


@app.command()
def activity(
    *,
    queries: Annotated[
        bool, typer.Option("--queries", help="Show the sessions' statements too: they can contain texts of users.")
    ] = False,
    long_after: Annotated[float, typer.Option(min=0, help="Seconds after which a transaction is marked.")] = 60.0,
    as_json: Json = False,
) -> None:
    """List the database's sessions, what they wait for, and which session blocks which; exit code 2 if it cannot.

    It reads the server's statistics and locks, and no table.
    """
    from src.database.cli.activity import run_activity

    run_activity(config.get_settings(), queries=queries, long_after_seconds=long_after, as_json=as_json)


@app.command()
def doctor(processes: Processes = 1, as_json: Json = False) -> None:
    """Run all checks, each with its remedy; exit code 1 if a check fails, 2 if the settings cannot be read."""
    from src.database.cli.doctor import run_doctor

    try:
        settings: config.Settings | ConfigurationError = config.get_settings()
    except ConfigurationError as error:
        settings = error
    raise typer.Exit(run_doctor(settings, processes=processes, as_json=as_json))


@app.command()
def pool(
    cores: Annotated[int | None, typer.Option(min=1, help="Of the database's machine; by default this one's.")] = None,
    spindles: Annotated[int, typer.Option(min=0, help="Of the same machine; 1 for an SSD.")] = 1,
    processes: Processes = 1,
    as_json: Json = False,
) -> None:
    """Suggest a size for the pool; exit code 1 if the set size can exhaust the server, 2 if that is unknown."""
    from src.database.cli.pool import run_pool

    settings = config.get_settings()
    raise typer.Exit(run_pool(settings, cores=cores, spindles=spindles, processes=processes, as_json=as_json))


@app.command()
def up() -> None:
    """Start the embedded server and keep it running until `thea-db down`."""
    from src.database.embedded import embedded_server

    folder = _embedded_folder()
    server = embedded_server(folder)
    server.keep()
    typer.echo(f"the embedded server runs: {server.target()}")


@app.command()
def down() -> None:
    """Stop the embedded server, or leave that to the last process that uses it."""
    from src.database.embedded import embedded_server

    folder = _embedded_folder()
    if not folder.exists():
        typer.echo(f"no embedded server has been started in {folder}")
        return
    users = embedded_server(folder).unkeep()
    typer.echo(
        f"the embedded server is in use by {users} process(es); the last of them stops it"
        if users
        else "the embedded server is stopped"
    )


@app.command()
def demo(
    file: Annotated[
        Path | None,
        typer.Argument(
            exists=True,
            dir_okay=False,
            readable=True,
            help="Bot API updates (JSON lines) or a Telegram Desktop export (result.json); by default a sample.",
        ),
    ] = None,
    account: Annotated[
        str, typer.Option(help="Whose numbering of messages the file has: part of each message's key.")
    ] = "bot",
) -> None:
    """Upgrade the schema, import a Telegram file, and show the queries of an assistant."""
    from src.database.cli.demo import run_demo

    settings = config.get_settings()
    if not re.fullmatch(r"[\w.-]{1,64}", account):
        raise ConfigurationError(f"--account must be 1 to 64 letters, digits, dots and dashes, got {account!r}")
    if not settings.is_local:
        raise ConfigurationError(
            f"the demo writes sample data: ENVIRONMENT must be development or test, got {settings.ENVIRONMENT}"
        )
    run_coroutine(run_demo(settings, file, account=account))


def _embedded_folder() -> Path:
    from src.config.profiles import named_target
    from src.database.embedded import embedded_folder

    settings = config.get_settings()
    if named_target(settings) is not None:
        raise ConfigurationError(
            "DATABASE_URL or the environment's profile is set: there is no embedded server to start or stop",
            hint="unset it to use one; `thea-db info` says where it comes from",
        )
    return embedded_folder(settings.DATABASE_EMBEDDED_DIR)
