"""The command thea-db seed: fill a development or test database with generated rows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from src import config
from src.database.cli.output import Json, format_counts, print_json, progress
from src.database.cli.running import run_coroutine
from src.database.errors import ConfigurationError

if TYPE_CHECKING:
    from src.database.cli.seed.fill import Report
    from src.database.cli.seed.recipe import Recipe

seed_app = typer.Typer(pretty_exceptions_show_locals=False)


@seed_app.command()
def seed(
    *,
    tenants: Annotated[int, typer.Option(help="The number of tenants; the first tenant gets most rows.")] = 3,
    users: Annotated[int, typer.Option(help="The number of users in all tenants together.")] = 100,
    messages: Annotated[int, typer.Option(help="The number of messages in all tenants together.")] = 100_000,
    number: Annotated[int, typer.Option("--seed", help="The seed: the same number generates the same rows.")] = 1,
    until: Annotated[
        str | None,
        typer.Option(
            help="The time that the generated rows treat as the present, such as 2026-03-01; by default"
            " that of the seed's existing tenants, else the start of today, in UTC."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress, and nothing on success.")] = False,
    as_json: Json = False,
) -> None:
    """Fill a development or test database with generated data.

    The schema is upgraded first. The rows, including ids and times, depend only on these options. Another run inserts
    missing rows and changes none. Tenants that were generated with other options are refused.
    """
    settings = config.get_settings()
    if not settings.is_local:
        raise ConfigurationError(
            f"a seed is generated data: ENVIRONMENT must be development or test, got {settings.ENVIRONMENT}"
        )
    if find_spec("faker") is None:
        raise ConfigurationError(
            "`thea-db seed` needs the library Faker", hint='install it: pip install "thea-database[seed]"'
        )
    from src.database.base import utc_now
    from src.database.cli.seed.recipe import Recipe

    recipe = Recipe(number, tenants, users, messages, utc_now() if until is None else _instant(until))
    recipe, report = run_coroutine(
        _run(settings, recipe, has_present=until is not None, is_shown=not (quiet or as_json))
    )
    if as_json:
        print_json(_document(recipe, report))
    elif not quiet:
        _show(recipe, report)


async def _run(
    settings: config.Settings, recipe: Recipe, *, has_present: bool, is_shown: bool
) -> tuple[Recipe, Report]:
    from src.database.cli.seed.fill import fill, present_of
    from src.database.migrate import upgrade

    await upgrade(settings)
    if not has_present:
        recipe = replace(recipe, until=await present_of(recipe.number))
    with progress("messages", total=recipe.messages, is_shown=is_shown) as advance:
        return recipe, await fill(recipe, on_progress=advance)


def _instant(text: str) -> datetime:
    """Parse an ISO 8601 date or time; without an offset, the time is UTC.

    Raises:
        ConfigurationError: The text is neither.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"--until must be like 2026-03-01 or 2026-03-01T12:00Z, got {text[:40]!r}") from None
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def _document(recipe: Recipe, report: Report) -> dict[str, object]:
    return {
        "seed": recipe.number,
        "until": recipe.until.isoformat(),
        "tenants": [
            {"id": str(share.tenant_id), "slug": share.slug, "users": share.users, "messages": share.messages}
            for share in report.shares
        ],
        "inserted": dict(report.inserted),
        "unchanged": dict(report.unchanged),
        "seconds": round(report.seconds, 3),
        "messages_per_second": round(report.messages_per_second),
    }


def _show(recipe: Recipe, report: Report) -> None:
    typer.echo(
        f"seed {recipe.number} until {recipe.until.isoformat()}: {', '.join(share.slug for share in report.shares)}"
    )
    typer.echo(f"inserted {format_counts(report.inserted)}; unchanged {format_counts(report.unchanged)}")
    typer.echo(f"{report.seconds:.1f} s, {report.messages_per_second:,.0f} messages/s")
