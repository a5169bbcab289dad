"""The commands of an administrator: bootstrap, backup, restore."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from src import config
from src.database.cli.output import EXIT_FAILED, Json, print_error, print_json, print_warning
from src.database.cli.running import run_coroutine

if TYPE_CHECKING:
    from src.database.operations import Bootstrapped, Manifest, Restored

Programs = Annotated[
    Path | None,
    typer.Option(
        "--bin",
        help="The folder of pg_dump and pg_restore; by default PATH, the system's folders and the embedded server are"
        " searched.",
    ),
]

service_app = typer.Typer()


@service_app.command("bootstrap")
def bootstrap_command(
    sql: Annotated[
        bool, typer.Option("--sql", help="Print a script for psql, without a connection to a server.")
    ] = False,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Also change a database and roles that other programs use.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Create or correct the database, its owner and the other roles, with the login of DATABASE_ADMIN_URL.

    The names and passwords are those of DATABASE_URL, DATABASE_MIGRATION_URL and DATABASE_BACKUP_URL. The plan is
    printed before it is executed. Exit code 1 if the server refuses a statement.

    Without --adopt the command prints the plan, changes nothing and ends with exit code 2 if the database belongs to
    another role, has other tables or is used by other roles, or if one of the roles is used elsewhere. With
    DATABASE_SCHEMA, the database may belong to another role, and have tables in other schemas.
    """
    from src.database.operations import bootstrap, bootstrap_script

    if sql:
        typer.echo(bootstrap_script(config.get_settings(), adopt=adopt), nl=False)
        return
    done = run_coroutine(bootstrap(config.get_settings(), adopt=adopt, on_plan=None if as_json else _show_plan))
    if as_json:
        print_json({"changed": done.changed, "refused": [asdict(refusal) for refusal in done.refused]})
    else:
        _show_bootstrapped(done)
    if done.refused:
        raise typer.Exit(EXIT_FAILED)


@service_app.command("backup")
def backup_command(
    file: Annotated[Path, typer.Argument(help="The file to write; the manifest is written beside it.")],
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Restore the backup into a scratch database, compare the number of rows and the row-level security of"
            " each table, and drop the database.",
        ),
    ] = False,
    programs: Programs = None,
    as_json: Json = False,
) -> None:
    """Back up the rows of all tenants, as of one instant: the whole database, or the schema of DATABASE_SCHEMA.

    Exit code 1 if --verify finds a difference.
    """
    from src.database.operations import back_up, verify_backup

    settings = config.get_settings()
    manifest = run_coroutine(back_up(settings, file, programs=programs))
    if not as_json:
        typer.echo(f"{file}: {_contents(manifest)}")
    differences = run_coroutine(verify_backup(settings, file, manifest, programs=programs)) if verify else None
    if as_json:
        print_json({"file": str(file), **asdict(manifest), "differences": differences})
    elif differences == []:
        typer.echo("verified: restored into a scratch database without a difference")
    _exit_if_different(differences or [], as_json=as_json)


@service_app.command("restore")
def restore_command(
    file: Annotated[Path, typer.Argument(help="The file that `thea-db backup` wrote.")],
    programs: Programs = None,
    as_json: Json = False,
) -> None:
    """Restore a backup into an empty database in one transaction, and compare the tables with the manifest.

    With DATABASE_SCHEMA, only that schema must be empty; the database can have others. The number of rows and the
    row-level security of each table are compared. Exit code 1 if there is a difference.
    """
    from src.database.operations import restore

    settings = config.get_settings()
    restored = run_coroutine(restore(settings, file, programs=programs))
    if as_json:
        print_json({"file": str(file), **asdict(restored)})
    else:
        _show_restored(restored)
    _exit_if_different(restored.differences, as_json=as_json)


def _show_plan(plan: Sequence[str]) -> None:
    for statement in plan:
        typer.echo(f"plan: {statement}")


def _show_bootstrapped(done: Bootstrapped) -> None:
    for statement in done.changed:
        typer.echo(f"done: {statement}")
    for refusal in done.refused:
        print_error(f"refused: {refusal.statement}\n{refusal.reason}\npurpose: {refusal.aim}\nremedy: {refusal.remedy}")
    if done.is_stopped:
        print_error(
            "stopped: carry out the remedy and run this command again, or give an administrator the script that --sql"
            " prints"
        )
    elif not done.changed and not done.refused:
        typer.echo("nothing to do: the database, the roles and their privileges are as planned")
    elif done.changed:
        typer.echo(
            "next: run `thea-db upgrade`; or, to restore a backup, run `thea-db restore <file>` instead: a restore"
            " needs an empty database, or with DATABASE_SCHEMA an empty schema"
        )


def _show_restored(restored: Restored) -> None:
    if restored.manifest is None:
        print_warning("the file has no manifest beside it: the numbers of rows could not be compared")
    elif not restored.differences:
        typer.echo(f"restored without a difference: {_contents(restored.manifest)}; row-level security is in force")
    if restored.application_lacks_rights:
        print_warning("the application's role lacks privileges on the tables: `thea-db bootstrap` grants them")


def _contents(manifest: Manifest) -> str:
    return (
        f"{manifest.rows:,} rows in {len(manifest.tables)} tables of {manifest.database}, revision {manifest.revision},"
        f" at {manifest.taken_at}"
    )


def _exit_if_different(differences: list[str], *, as_json: bool) -> None:
    if not differences:
        return
    if not as_json:
        print_error("the restored database differs from the backup:\n" + "\n".join(differences))
    raise typer.Exit(EXIT_FAILED)
