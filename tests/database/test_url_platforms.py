"""The URLs of docs/database-urls.md: each has the documented outcome."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import URL, text
from structlog.testing import capture_logs

from src.config import Settings
from src.database import get_db, get_read_db
from src.database.doctor.connection import reach
from src.database.errors import ConfigurationError
from src.database.target import Target, parse_url, warnings_of

PAGE = Path(__file__).parents[2] / "docs" / "database-urls.md"
ROWS = re.findall(r"^\| ([^|]+) \| `([^`]+)` \| (.+) \|$", PAGE.read_text(), re.MULTILINE)


def read(url: str) -> Target:
    try:
        return Target.from_url(parse_url(url))
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def test_the_page_has_every_platform() -> None:
    text_of_page = " ".join(name for name, _, _ in ROWS)

    assert len(ROWS) == PAGE.read_text().count("| `postgres")
    for platform in (
        "Supabase",
        "Neon",
        "Heroku",
        "Azure",
        "Fly",
        "Aiven",
        "DigitalOcean",
        "Render",
        "Railway",
        "Prisma",
    ):
        assert platform in text_of_page


@pytest.mark.parametrize(("url", "outcome"), [pytest.param(url, outcome, id=url) for _, url, outcome in ROWS])
def test_a_documented_url_has_its_documented_outcome(url: str, outcome: str) -> None:
    if outcome.startswith("rejected: "):
        [message] = re.findall(r"`([^`]+)`", outcome)
        with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
            read(url)
        assert "{pw}" not in str(caught.value)
        return

    target = read(url)
    [in_force] = re.findall(r"^`([^`]+)`", outcome)
    for setting in re.findall(r"\w+=\S+(?: \w+$)?", in_force):
        name, _, value = setting.partition("=")
        assert str(getattr(target, name)) == value
    warning = re.search(r"warning: `([^`]+)`", outcome)
    assert bool(warnings_of(parse_url(url))) == bool(warning)
    if warning:
        assert warning[1] in warnings_of(parse_url(url))[0]


@pytest.mark.parametrize(
    ("url", "name", "value"),
    [
        ("postgresql://u:a+b@h/d", "password", "a+b"),
        ("postgresql://u@h/d?password=a%20b%2Bc+d", "password", "a b+c+d"),
        ("postgresql://a+b@h/d?application_name=x+y", "application_name", "x+y"),
        ("postgresql://u:p?x+y@h/d?application_name=x+y", "password", "p?x+y"),
        ("postgresql://u:p%C3%B1@h/d", "password", "p\u00f1"),
    ],
)
def test_reads_plus_and_percent_as_libpq_does(url: str, name: str, value: str) -> None:
    assert getattr(read(url), name) == value


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p%F1@h/d",
        "postgresql://u%F1@h/d",
        "postgresql://u@h/d%F1",
        "postgresql://u@h/d?password=%ff",
        "postgresql://u@%2Ft%F1/d",
    ],
)
def test_text_that_is_not_utf8_is_refused_everywhere(url: str) -> None:
    with pytest.raises(ConfigurationError, match="must be UTF-8"):
        read(url)


def test_a_rendered_url_has_the_same_meaning_for_libpq() -> None:
    written = parse_url("postgresql://u@h/d?application_name=a%20b%2Bc").render_as_string()

    assert written.endswith("?application_name=a%20b%2Bc")
    assert read(written).application_name == "a b+c"


@pytest.mark.parametrize("path", ['app"', "a b", "a;b", "a'b", '"a\'b"', "", "a,,b"])
def test_an_invalid_search_path_is_refused(path: str) -> None:
    with pytest.raises(ConfigurationError, match="options must be"):
        read(f"postgresql://u@h/d?options=-csearch_path={quote(path)}")


async def test_the_search_path_of_the_url_is_in_force(
    cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    for pgbouncer in ("false", "true"):
        use_database(
            cloned_database.update_query_dict({"options": "-csearch_path=public,elsewhere"}),
            DATABASE_PGBOUNCER=pgbouncer,
            DATABASE_MIGRATION_URL=cloned_database.render_as_string(hide_password=False),
        )
        async with get_db() as session, get_read_db() as reading:
            paths = [await one.scalar(text("SHOW search_path")) for one in (session, reading)]

        assert paths == ["public,elsewhere, pg_temp"] * 2


async def test_the_search_path_of_the_url_is_in_force_in_commands(
    cloned_database: URL, use_database: Callable[..., Settings]
) -> None:
    url = cloned_database.update_query_dict({"options": "-csearch_path=elsewhere"})

    async with reach(use_database(url)) as reached:
        assert await reached.connection.fetchval("SHOW search_path") == "elsewhere"


def test_a_parameter_without_effect_is_logged(use_database: Callable[..., Settings]) -> None:
    with capture_logs() as logs:
        use_database(URL.create("postgresql", "u", "secret", "h", 5432, "d", {"channel_binding": "require"}))

    assert [log["event"] for log in logs] == ["parameter_without_effect"]
    assert "secret" not in str(logs)
