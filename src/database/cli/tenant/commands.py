"""The commands of thea-db tenant: their options and their output."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from src.database.cli.output import Json, escape_unprintable, format_counts, print_json
from src.database.cli.running import run_coroutine
from src.database.errors import ConfigurationError

if TYPE_CHECKING:
    from src.database.models import Tenant

Slug = Annotated[str, typer.Argument(help="The slug of the tenant.")]

tenant_app = typer.Typer(
    name="tenant",
    help="Register, list, change and suspend tenants; export and erase their data; purge expired rows.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


@tenant_app.command()
def create(
    slug: Annotated[str, typer.Argument(help="The slug: 1 to 63 characters from a-z, 0-9 and dashes.")],
    name: Annotated[str, typer.Argument(help="The display name.")],
    retention_days: Annotated[
        int | None, typer.Option(help="The number of days for which messages are kept; by default forever.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Register a tenant, and print its id."""
    from src.database.cli.tenant.registry import register

    _show_one(run_coroutine(register(slug, name, retention_days=retention_days)), as_json=as_json)


@tenant_app.command("list")
def show(as_json: Json = False) -> None:
    """List the tenants, in the order of their registration."""
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
    name: Annotated[str | None, typer.Option(help="The new display name.")] = None,
    retention_days: Annotated[int | None, typer.Option(help="The number of days for which messages are kept.")] = None,
    keep_for_ever: Annotated[bool, typer.Option("--keep-for-ever", help="Keep messages forever.")] = False,
    as_json: Json = False,
) -> None:
    """Change the slug, the name or the retention of a tenant."""
    from src.database.cli.tenant.registry import change

    if keep_for_ever and retention_days is not None:
        raise ConfigurationError("--retention-days and --keep-for-ever cannot both be given", hint="give one of them")
    changes = {"slug": new_slug, "name": name, "retention_days": retention_days}
    values: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    if keep_for_ever:
        values["retention_days"] = None
    if not values:
        raise ConfigurationError(
            "nothing was changed: no change was given", hint="give --name, --slug, --retention-days or --keep-for-ever"
        )
    _show_one(run_coroutine(change(slug, values)), as_json=as_json)


@tenant_app.command()
def suspend(slug: Slug, as_json: Json = False) -> None:
    """Suspend a tenant.

    Workers and `purge` without a slug skip it, and TenantMiddleware refuses its requests. Sessions keep working.
    """
    from src.database.cli.tenant.registry import set_status

    _show_one(run_coroutine(set_status(slug, "suspended")), as_json=as_json)


@tenant_app.command()
def activate(slug: Slug, as_json: Json = False) -> None:
    """Activate a suspended tenant: workers and `purge` include it again."""
    from src.database.cli.tenant.registry import set_status

    _show_one(run_coroutine(set_status(slug, "active")), as_json=as_json)


@tenant_app.command("export")
def export_command(
    slug: Slug,
    user: Annotated[UUID | None, typer.Option(help="Export only the data of the user with this id.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="The file to write; by default standard output."),
    ] = None,
) -> None:
    """Write all data of a tenant, or of one of its users, as JSON lines, including deleted rows."""
    from src.database.cli.tenant.rows import export

    run_coroutine(export(slug, user_id=user, file=output))


@tenant_app.command("erase")
def erase_command(
    slug: Slug,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: Json = False,
) -> None:
    """Remove a tenant with all of its data, permanently. Stop its services first."""
    from src.database.cli.tenant.rows import erase

    removed = run_coroutine(erase(slug, confirm=None if yes else _confirm))
    if as_json:
        print_json({"tenant": slug, "removed": removed})
    else:
        typer.echo(f"{slug}: removed {format_counts(removed)}, and its entry in the registry")


@tenant_app.command("purge")
def purge_command(
    slug: Annotated[str | None, typer.Argument(help="The slug of the tenant; by default all active tenants.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the rows that would be removed, and remove none.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove expired rows permanently: messages by age, soft-deleted rows by the time since their deletion.

    Both times are the retention of the user or of the tenant. Without a retention, messages do not expire, and
    soft-deleted rows expire after 30 days. The command can be interrupted; another run continues.
    """
    from src.database.cli.tenant.rows import purge

    purged = run_coroutine(purge(slug, dry_run=dry_run))
    if as_json:
        print_json({"dry_run": dry_run, "tenants": purged})
        return
    for tenant, counts in purged.items():
        typer.echo(f"{tenant}: {'would remove' if dry_run else 'removed'} {format_counts(counts)}")


def _confirm(slug: str) -> None:
    """Read the slug from standard input as a confirmation.

    Raises:
        ConfigurationError: The user typed another text.
    """
    typer.echo(f"This removes {slug} and all of its data permanently. Type {slug} to confirm:", err=True)
    if sys.stdin.readline().strip() != slug:
        raise ConfigurationError(
            "nothing was removed: the slug was not confirmed", hint="type the slug of the tenant, or give --yes"
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
    kept = "forever" if tenant.retention_days is None else f"{tenant.retention_days} days"
    return f"{tenant.id}  {tenant.status:<9}  {tenant.slug}  {escape_unprintable(tenant.name)}  (kept {kept})"
