"""thea-db tenant: the commands, their options and their output."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from src.database.cli.output import Json, escape_unprintable, print_json
from src.database.cli.running import run_coroutine
from src.database.errors import ConfigurationError

if TYPE_CHECKING:
    from src.database.models import Tenant

Slug = Annotated[str, typer.Argument(help="The slug of the tenant.")]

tenant_app = typer.Typer(
    name="tenant",
    help="Tenants: register, list, update, suspend; export and erase their data; purge expired rows.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


@tenant_app.command()
def create(
    slug: Annotated[str, typer.Argument(help="1 to 63 of a-z, 0-9 and dashes.")],
    name: Annotated[str, typer.Argument(help="The name that is shown.")],
    retention_days: Annotated[int | None, typer.Option(help="How long messages are kept; by default forever.")] = None,
    as_json: Json = False,
) -> None:
    """Register a tenant, and print its id."""
    from src.database.cli.tenant.registry import register

    _show_one(run_coroutine(register(slug, name, retention_days=retention_days)), as_json=as_json)


@tenant_app.command("list")
def show(as_json: Json = False) -> None:
    """List the tenants."""
    from src.database.cli.tenant.registry import all_tenants

    tenants = run_coroutine(all_tenants())
    if as_json:
        print_json({"tenants": [_document(tenant) for tenant in tenants]})
        return
    for tenant in tenants:
        typer.echo(_line(tenant))


@tenant_app.command("update")
def update_command(
    slug: Slug,
    *,
    new_slug: Annotated[str | None, typer.Option("--slug", help="The new slug.")] = None,
    name: Annotated[str | None, typer.Option(help="The name that is shown.")] = None,
    retention_days: Annotated[int | None, typer.Option(help="How long messages are kept.")] = None,
    keep_for_ever: Annotated[bool, typer.Option("--keep-for-ever", help="Messages are kept forever.")] = False,
    as_json: Json = False,
) -> None:
    """Change a tenant's slug, name or retention of messages."""
    from src.database.cli.tenant.registry import change

    if keep_for_ever and retention_days is not None:
        raise ConfigurationError("--retention-days and --keep-for-ever cannot both be given", hint="say one of them")
    given = {"slug": new_slug, "name": name, "retention_days": retention_days}
    values: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if keep_for_ever:
        values["retention_days"] = None
    if not values:
        raise ConfigurationError(
            "nothing was changed: no change was given", hint="--name, --slug, --retention-days or --keep-for-ever"
        )
    _show_one(run_coroutine(change(slug, values)), as_json=as_json)


@tenant_app.command()
def suspend(slug: Slug, as_json: Json = False) -> None:
    """Exclude a tenant from workers and from purge; its sessions keep working."""
    from src.database.cli.tenant.registry import set_status

    _show_one(run_coroutine(set_status(slug, "suspended")), as_json=as_json)


@tenant_app.command()
def activate(slug: Slug, as_json: Json = False) -> None:
    """Include a tenant in the work of workers again."""
    from src.database.cli.tenant.registry import set_status

    _show_one(run_coroutine(set_status(slug, "active")), as_json=as_json)


@tenant_app.command("export")
def export_command(
    slug: Slug,
    user: Annotated[UUID | None, typer.Option(help="Only the data of the user with this id.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", dir_okay=False, help="The file; by default standard output.")
    ] = None,
) -> None:
    """Write all data of a tenant, or of one of its users, as JSON lines; deleted rows too."""
    from src.database.cli.tenant.rows import export

    run_coroutine(export(slug, user_id=user, file=output))


@tenant_app.command("erase")
def erase_command(
    slug: Slug,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for the slug again.")] = False,
    as_json: Json = False,
) -> None:
    """Remove a tenant with all of its data, permanently; stop its services first."""
    from src.database.cli.tenant.rows import erase

    removed = run_coroutine(erase(slug, confirm=None if yes else _ask_again))
    if as_json:
        print_json({"tenant": slug, "removed": removed})
    else:
        typer.echo(f"{slug}: removed {_counts(removed)}, and its entry in the registry")


@tenant_app.command("purge")
def purge_command(
    slug: Annotated[str | None, typer.Argument(help="Only this tenant; by default all that are active.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what would be removed, and remove nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove rows that are older than their retention, or were deleted long ago; it can be interrupted."""
    from src.database.cli.tenant.rows import purge

    purged = run_coroutine(purge(slug, dry_run=dry_run))
    if as_json:
        print_json({"dry_run": dry_run, "tenants": purged})
        return
    for tenant, counts in purged.items():
        typer.echo(f"{tenant}: {'would remove' if dry_run else 'removed'} {_counts(counts)}")


def _ask_again(slug: str) -> None:
    """Ask the user to type the slug again.

    Raises:
        ConfigurationError: The user typed something else.
    """
    typer.echo(f"This removes {slug} and all that is held on it for good. Type {slug} again:", err=True)
    if sys.stdin.readline().strip() != slug:
        raise ConfigurationError(
            "nothing was removed: the slug was not typed again", hint="type the tenant's slug as it is shown"
        )


def _show_one(tenant: Tenant, *, as_json: bool) -> None:
    if as_json:
        print_json(_document(tenant))
    else:
        typer.echo(_line(tenant))


def _document(tenant: Tenant) -> dict[str, Any]:
    return {
        "id": str(tenant.id),
        "slug": tenant.slug,
        "name": tenant.name,
        "status": tenant.status,
        "retention_days": tenant.retention_days,
    }


def _line(tenant: Tenant) -> str:
    kept = "for ever" if tenant.retention_days is None else f"{tenant.retention_days} days"
    return f"{tenant.id}  {tenant.status:<9}  {tenant.slug}  {escape_unprintable(tenant.name)}  (kept {kept})"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "nothing"
