"""The commands of thea-db. A DatabaseError ends the process with one message and exit code 2, without a traceback.

`thea-db --help` imports the modules of the commands; a command imports what it uses when it runs.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from src import config
from src.database.check_result import CheckResult
from src.database.cli.diagram import diagram_app
from src.database.cli.drift import drift_app
from src.database.cli.migrations import migrations_app
from src.database.cli.output import EXIT_ERROR, EXIT_FAILED, Json, print_checks, print_error, print_json, report_checks
from src.database.cli.running import leave, run_coroutine
from src.database.cli.seed import seed_app
from src.database.cli.service import service_app
from src.database.cli.tenant import tenant_app
from src.database.errors import ConfigurationError, DatabaseError, SchemaDriftError

if TYPE_CHECKING:
    from src.database.embedded import EmbeddedServer

EXIT_INTERRUPTED: int = 130

Processes = Annotated[
    int,
    typer.Option(
        min=1, envvar="WEB_CONCURRENCY", help="The number of processes that use the database at the same time."
    ),
]

app = typer.Typer(
    name="thea-db",
    help="The commands of the data layer: diagnosis, embedded server, schema, tenants, backup, demo.",
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
    """Run the command that the arguments of the process name, and end the process with its exit code."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except DatabaseError as raised:
        error = _explained(raised)
        if "--json" in sys.argv:  # of the process: the error may have been raised before the options were parsed
            print_json({"error": str(error)}, indent=None)
        print_error(str(error))
        sys.exit(EXIT_ERROR)


def _explained(error: DatabaseError) -> DatabaseError:
    """Return the error, or its cause if other migrations made the database."""
    if not isinstance(error, SchemaDriftError):
        return error
    from src.database.doctor.schema import explain_drift

    return run_coroutine(explain_drift(error, config.get_settings))


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
    """Configure logging before a command runs."""
    if "--help" in sys.argv:  # the settings may not be complete yet, and help writes no log
        return
    if context.invoked_subcommand == "doctor":  # doctor reports invalid settings instead of failing on them
        config.configure_logging()
    else:
        config.configure_logging(config.get_settings().ENVIRONMENT)


@app.command()
def info(as_json: Json = False) -> None:
    """Show the target, its server, TLS and revision, and the source of each setting.

    Exit code 2 if a server cannot be reached.
    """
    from src.database.cli.info import run_info

    raise typer.Exit(run_info(config.get_settings(), as_json=as_json))


@app.command()
def wait(
    timeout: Annotated[float, typer.Option(min=0.1, help="The limit for all attempts together, in seconds.")] = 60.0,
    interval: Annotated[float, typer.Option(min=0.01, help="The pause between two attempts, in seconds.")] = 0.5,
    as_json: Json = False,
) -> None:
    """Wait until the server accepts connections.

    Exit code 1 if the server is still down after the time limit. Exit code 2, immediately, if waiting cannot help, as
    with a wrong password.
    """
    from src.database.cli.wait import run_wait

    code = run_wait(config.get_settings(), timeout=timeout, interval=interval, as_json=as_json)
    if code == EXIT_FAILED:
        leave(code)
    raise typer.Exit(code)


@app.command()
def health(
    *,
    live: Annotated[bool, typer.Option("--live", help="Check only the settings; the database is not queried.")] = False,
    drift: Annotated[bool, typer.Option("--drift", help="Compare the whole schema too, as `verify` does.")] = False,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="The limit for each check, in seconds; at least 10 for --drift.")
    ] = 2.0,
    as_json: Json = False,
) -> None:
    """Check whether a process with these settings can serve, as a readiness probe does.

    Exit code 0 if healthy or degraded: a degraded process serves, and should be repaired. Exit code 1 if unhealthy, 2
    if the settings are invalid.
    """
    import asyncio

    from src.database.doctor.wait import AbandonedThreads
    from src.database.health import HealthReport, liveness, readiness

    async def examine() -> HealthReport:
        asyncio.get_running_loop().set_default_executor(AbandonedThreads())
        return await (liveness() if live else readiness(drift=drift, timeout_seconds=timeout))

    report = run_coroutine(examine())
    if as_json:
        print_json(report.as_json())
    else:
        print_checks({report.service: CheckResult(report.status, report.status), **report.checks})
    if not report.can_serve:
        leave(EXIT_FAILED)


@app.command()
def activity(
    *,
    queries: Annotated[
        bool, typer.Option("--queries", help="Show the statements too; they can contain the texts of users.")
    ] = False,
    long_after: Annotated[float, typer.Option(min=0, help="Mark transactions older than this, in seconds.")] = 60.0,
    as_json: Json = False,
) -> None:
    """List the sessions of the database, what they wait for, and which session blocks which.

    The command reads the server's statistics and locks, and no table. Exit code 2 if the server cannot be reached.
    """
    from src.database.cli.activity import run_activity

    run_activity(config.get_settings(), queries=queries, long_after_seconds=long_after, as_json=as_json)


@app.command()
def doctor(processes: Processes = 1, as_json: Json = False) -> None:
    """Check the settings, the network, the server and the schema, and print a remedy for each fault.

    Exit code 1 if a check fails, 2 if the settings are invalid.
    """
    from src.database.doctor.examination import examine

    try:
        settings: config.Settings | ConfigurationError = config.get_settings()
    except ConfigurationError as error:
        settings = error
    checks = run_coroutine(examine(settings, processes=processes))
    code = report_checks(checks, as_json=as_json)
    raise typer.Exit(EXIT_ERROR if checks["settings"].status == "failed" else code)


@app.command()
def pool(
    cores: Annotated[
        int | None, typer.Option(min=1, help="The cores of the database server; by default those of this machine.")
    ] = None,
    spindles: Annotated[int, typer.Option(min=0, help="The disks of the database server; 1 for an SSD.")] = 1,
    processes: Processes = 1,
    as_json: Json = False,
) -> None:
    """Suggest a size for the connection pools.

    Exit code 1 if the size that is set can exhaust the server's connections, 2 if the server cannot be queried.
    """
    from src.database.cli.pool import run_pool

    settings = config.get_settings()
    raise typer.Exit(run_pool(settings, cores=cores, spindles=spindles, processes=processes, as_json=as_json))


@app.command()
def up() -> None:
    """Start the embedded server and keep it running until `thea-db down`."""
    server = _embedded_server()
    server.keep()
    typer.echo(f"the embedded server is running: {server.target()}")


@app.command()
def down() -> None:
    """Stop the embedded server. If processes use the server, it stops when the last of them ends."""
    server = _embedded_server()
    if not server.folder.exists():
        typer.echo(f"no embedded server has been started in {server.folder}")
        return
    users = server.unkeep()
    typer.echo(
        f"{users} process(es) use the embedded server, which stops when the last of them ends"
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
        str,
        typer.Option(help="The name of the account that exported the file; the name is part of each message's key."),
    ] = "bot",
) -> None:
    """Import a Telegram file into a development database, and show the queries of an assistant.

    The schema is upgraded first.
    """
    from src.database.cli.demo import run_demo

    settings = config.get_settings()
    if not re.fullmatch(r"[\w.-]{1,64}", account):
        raise ConfigurationError(
            f"--account must be 1 to 64 letters, digits, underscores, dots and dashes, got {account!r}"
        )
    if not settings.is_local:
        raise ConfigurationError(
            f"the demo writes sample data: ENVIRONMENT must be development or test, got {settings.ENVIRONMENT}"
        )
    run_coroutine(run_demo(settings, file, account=account))


def _embedded_server() -> EmbeddedServer:
    """Return the embedded server of the settings; its folder may not exist yet.

    Raises:
        ConfigurationError: The settings name another target.
    """
    from src.config.profiles import named_target
    from src.database.embedded import embedded_server

    settings = config.get_settings()
    if named_target(settings) is not None:
        raise ConfigurationError(
            "DATABASE_URL or the environment's profile is set: there is no embedded server to start or stop",
            hint="unset these settings to use the embedded server; `thea-db info` shows the source of each",
        )
    return embedded_server(settings.DATABASE_EMBEDDED_DIR)
