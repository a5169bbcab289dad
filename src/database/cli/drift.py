"""thea-db verify and check: compare the database with the migrations, and check the migrations themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from src import config
from src.database.check_result import CheckResult, CheckStatus, failed
from src.database.cli.output import EXIT_FAILED, Json, print_checks, print_json, report_checks
from src.database.cli.running import run_coroutine
from src.database.errors import ConfigurationError

if TYPE_CHECKING:
    from src.database.drift import Difference, SchemaReport

SQUAWK: str = "squawk"

drift_app = typer.Typer(pretty_exceptions_show_locals=False)


@drift_app.command()
def verify(
    *,
    scratch: Annotated[
        bool,
        typer.Option(
            "--scratch", help="Compare with a scratch database at the same revision, instead of with the snapshot."
        ),
    ] = False,
    lenient: Annotated[
        bool,
        typer.Option(
            "--lenient", help="Exit code 0 if no difference can make a statement fail or opens an isolation layer."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """List each difference between the database and the schema that the migrations build, with its remedy.

    Run the remedies as the owner of the tables, in the order in which they are listed, unless a remedy names another
    order. Exit code 1 if there is a difference, 2 if the schemas cannot be compared.
    """
    from src.database.drift import verify as run_verify

    report = run_coroutine(run_verify(config.get_settings(), scratch=scratch))
    if as_json:
        print_json(report.document())
    else:
        _print_report(report)
    raise typer.Exit(EXIT_FAILED if (report.errors if lenient else report.differences) else 0)


@drift_app.command()
def check(
    *,
    service: Annotated[
        bool, typer.Option("--service", help="Check instead that the database is a service of its own.")
    ] = False,
    restart_command: Annotated[
        str | None,
        typer.Option(help="With --service: the command that restarts the database, to check that its data survives."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail if squawk is not installed.")] = False,
    update_snapshot: Annotated[
        bool,
        typer.Option(
            "--update-snapshot",
            help="Write the snapshot of the schema, beside the migrations of the service if there is one.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check the migrations in a scratch database, which is dropped afterwards.

    The checks: the migrations have one head; autogenerate finds no difference from the models; row-level security
    protects each table with rows of tenants; upgrade, downgrade and upgrade build the same schema; the snapshot is
    current; squawk reports no fault.

    With --service, these checks instead: the settings name a database that this service does not start itself; the
    database is migrated; a crash loses no committed transaction; the pool replaces a terminated connection. With
    --restart-command also: the rows survive a restart.

    Exit code 1 if a check fails.
    """
    from src.database.doctor.service import examine_service
    from src.database.drift import SNAPSHOT_FILE
    from src.database.drift import check_migrations as run_check

    if service:
        results = run_coroutine(examine_service(config.get_settings(), restart_command=restart_command))
        raise typer.Exit(report_checks(results, as_json=as_json))
    if restart_command is not None:
        raise ConfigurationError("--restart-command needs --service")
    settings = config.get_settings()
    if update_snapshot and settings.DATABASE_SERVICE_MIGRATIONS is None and "site-packages" in SNAPSHOT_FILE.parts:
        raise ConfigurationError("--update-snapshot cannot change an installed release", hint="run it in the checkout")
    results = run_coroutine(run_check(settings, update_snapshot=update_snapshot))
    if strict and results[SQUAWK].status == "skipped":
        results[SQUAWK] = failed(results[SQUAWK].found, results[SQUAWK].remedy)
    raise typer.Exit(report_checks(results, as_json=as_json))


def _print_report(report: SchemaReport) -> None:
    name = f"{report.database}, schema {report.schema}" if report.schema else report.database
    print_checks({name: _summary(report)})
    for difference in report.differences:
        print_checks({difference.kind: _result(difference)})


def _summary(report: SchemaReport) -> CheckResult:
    of_service = f" and {report.service_revision} of the service" if report.service_revision else ""
    against = f"revision {report.revision or 'none'}{of_service}, {_compared_with(report)}"
    if report.is_sound:
        return CheckResult("ok", f"{against}: no difference")
    return CheckResult("failed" if report.errors else "warning", f"{against}: {len(report.differences)} difference(s)")


def _compared_with(report: SchemaReport) -> str:
    match report.compared_with:
        case "nothing":
            return "not compared with a schema, because of this revision"
        case "snapshot":
            return f"compared with this release's snapshot of {report.head}"
        case _:
            return "compared with a scratch database"


def _result(difference: Difference) -> CheckResult:
    status: CheckStatus = "failed" if difference.severity == "error" else "warning"
    found = str(difference).removeprefix(f"{difference.kind} ")
    remedy = "\n".join(line if line.startswith(("--", "thea-db")) else f"{line};" for line in difference.remedy)
    return CheckResult(status, found, remedy or "the remedy of another difference in this list repairs it too")
