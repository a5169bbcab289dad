"""thea-db verify and check: compares the database with the migrations, and checks the migrations themselves."""

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
        typer.Option("--scratch", help="Compare with a scratch database, at the same revision, not with the snapshot."),
    ] = False,
    lenient: Annotated[
        bool, typer.Option("--lenient", help="Exit code 0 where the differences can break nothing: warnings.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List each difference between the database and what the migrations build, with its remedy; exit code 1 if any.

    Exit code 2 if the two cannot be compared. Run the remedies in this order, as the owner of the tables.
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
        bool, typer.Option("--service", help="Check, instead, that the database is a service of its own.")
    ] = False,
    restart_command: Annotated[
        str | None,
        typer.Option(help="With --service: restarts the database, to see that its data survives it."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail where squawk is not installed.")] = False,
    update_snapshot: Annotated[
        bool, typer.Option("--update-snapshot", help="Write the snapshot that ships with the release again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check the migrations in a scratch database, which is dropped afterwards; exit code 1 if a check fails.

    The checks: there is one head; autogenerate finds no difference to the models; up, down and up again leaves the same
    schema; the snapshot is current; squawk reports nothing. With --service, in place of these: the database is a
    service of its own, which this service does not need to start; it is migrated; acknowledged writes survive a
    restart; the pool recovers.
    """
    from src.database.cli.service_check import run_service_check
    from src.database.drift import SNAPSHOT_FILE
    from src.database.drift import check_migrations as run_check

    if service:
        raise typer.Exit(run_service_check(config.get_settings(), as_json=as_json, restart_command=restart_command))
    if restart_command is not None:
        raise ConfigurationError("--restart-command belongs to --service")
    if update_snapshot and "site-packages" in SNAPSHOT_FILE.parts:
        raise ConfigurationError("an installed release's snapshot is the release's", hint="work in the checkout")
    results = run_coroutine(run_check(config.get_settings(), update_snapshot=update_snapshot))
    if strict and results[SQUAWK].status == "skipped":
        results[SQUAWK] = failed(results[SQUAWK].found, results[SQUAWK].remedy)
    raise typer.Exit(report_checks(results, as_json=as_json))


def _print_report(report: SchemaReport) -> None:
    print_checks({_name(report): _summary(report)})
    for difference in report.differences:
        print_checks({difference.kind: _result(difference)})


def _name(report: SchemaReport) -> str:
    return f"{report.database}, schema {report.schema}" if report.schema else report.database


def _summary(report: SchemaReport) -> CheckResult:
    against = f"revision {report.revision or 'none'}, compared with {_compared_with(report)}"
    if report.is_sound:
        return CheckResult("ok", f"{against}: no difference")
    return CheckResult("failed" if report.errors else "warning", f"{against}: {len(report.differences)} difference(s)")


def _compared_with(report: SchemaReport) -> str:
    match report.compared_with:
        case "nothing":
            return "nothing, because of its revision"
        case "snapshot":
            return f"this release's snapshot of {report.head}"
        case _:
            return "a scratch database"


def _result(difference: Difference) -> CheckResult:
    status: CheckStatus = "failed" if difference.severity == "error" else "warning"
    found = str(difference).removeprefix(f"{difference.kind} ")
    ends = ("" if line.startswith(("--", "thea-db")) else ";" for line in difference.remedy)
    remedy = "\n".join(line + end for line, end in zip(difference.remedy, ends, strict=True))
    return CheckResult(status, found, remedy or "the remedy of another difference in this list repairs it too")
