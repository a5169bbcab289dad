"""The reports of upgrade, downgrade and stamp, and their confirmations."""

from __future__ import annotations

import psycopg
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from src.config import Settings
from src.database.cli.migrations import migrations_app
from src.database.drift import verify
from src.database.errors import ConfigurationError
from src.database.migrate import heads, script_directory
from src.database.session import forget_settings

(HEAD,) = heads()
BEFORE = str(script_directory().get_revision(HEAD).down_revision)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(migrations_app, list(arguments))


def last_line(output: str) -> str:
    """Return the last line of a command's output, which can contain lines of the log too."""
    return output.splitlines(keepends=True)[-1]


def test_reports_name_the_revision_and_the_steps(owner_settings: Settings) -> None:
    back, up, again = call("downgrade", "-1"), call("upgrade", "+1"), call("upgrade")

    assert last_line(back.output) == f"the schema is at {BEFORE}: 1 migration reverted\n"
    assert last_line(up.output) == f"the schema is at {HEAD} (head): 1 migration\n"
    assert last_line(again.output) == f"the schema is at {HEAD} (head): nothing to do\n"


def test_a_stamp_reports_no_migration(owner_settings: Settings) -> None:
    with capture_logs() as logs:
        stamped = call("stamp", BEFORE)
    document = call("stamp", "head", "--json")
    same = call("stamp", "head")

    assert last_line(stamped.output) == f"recorded {BEFORE} in place of {HEAD} (head); no migration was run\n"
    assert [one["event"] for one in logs if one["event"] in {"migrated", "stamped"}] == ["stamped"]
    assert '"steps": []' in document.output
    assert last_line(same.output) == f"{HEAD} (head) was already recorded; nothing was changed\n"


@pytest.mark.parametrize("command", ["stamp", "downgrade"])
def test_production_needs_yes(
    command: str, owner_settings: Settings, superuser: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    forget_settings()

    refused = call(command, BEFORE)
    recorded = superuser.execute("SELECT version_num FROM thea_alembic_version").fetchone()
    accepted = call(command, BEFORE, "--yes")

    assert isinstance(refused.exception, ConfigurationError)
    assert "--yes" in str(refused.exception)
    assert recorded == (HEAD,)
    assert accepted.exit_code == 0, accepted.exception
    assert superuser.execute("SELECT version_num FROM thea_alembic_version").fetchone() == (BEFORE,)


@pytest.mark.parametrize("recorded", ["base", BEFORE])
async def test_the_remedies_repair_a_wrong_stamp(
    recorded: str, owner_settings: Settings, superuser: psycopg.Connection
) -> None:
    """`upgrade` fails because the schema has what the migrations create; verify names the revision to stamp."""
    superuser.execute("DELETE FROM thea_alembic_version")
    if recorded != "base":
        superuser.execute("INSERT INTO thea_alembic_version VALUES (%s)", (recorded,))

    report = await verify(owner_settings)

    assert [one.remedy[-1] for one in report.differences] == [f"thea-db stamp {HEAD}"]
