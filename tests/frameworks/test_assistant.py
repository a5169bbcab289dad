"""The example service in an empty folder, on the wheel: its start, its tests, and a later release of the package."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from src.database.migrate import heads
from tests.wheels import ROOT, build, install, packages_of, run

LATER = '''
"""later

Revision ID: {later}
Revises: {newest}
"""

from alembic import op

revision = "{later}"
down_revision = "{newest}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("COMMENT ON TABLE users IS 'of a later release'")


def downgrade() -> None:
    op.execute("COMMENT ON TABLE users IS NULL")
'''
TASKS = """
import asyncio

from assistant.tasks import Task, TaskRepository
from thea_database import engine, get_db
from thea_database.repositories import UserRepository


async def main() -> None:
    async with get_db() as session:
        user, _ = await UserRepository(session).get_or_create_by_telegram_id(1)
        await TaskRepository(session).add(Task(user_id=user.id, title="x"))
        print(await TaskRepository(session).count())
    await engine.dispose()


asyncio.run(main())
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A Python that has the wheel."""
    return install(build(tmp_path), tmp_path / "venv")


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """A copy of the service, with its settings."""
    folder = tmp_path / "service"
    shutil.copytree(ROOT / "examples" / "assistant", folder, ignore=shutil.ignore_patterns(".*cache", "__pycache__"))
    shutil.copy(folder / ".env.example", folder / ".env")
    return folder


def test_the_service_starts_passes_its_tests_and_follows_a_later_release(
    python: Path, service: Path, empty_database: str
) -> None:
    def thea_db(*arguments: str) -> str:
        code = "from thea_database.cli import main; main()"
        return run(python, "-c", code, *arguments, folder=service, DATABASE_URL=empty_database, ENVIRONMENT="test")

    def count_after_adding_a_task() -> str:
        return run(python, "-c", TASKS, folder=service, DATABASE_URL=empty_database, ENVIRONMENT="test")

    newest, later = heads()[0], "later"
    assert thea_db("upgrade").count("(head)") == 2
    assert "no difference" in thea_db("verify")
    assert count_after_adding_a_task() == "1\n"
    assert_tests_pass(python, service)

    versions = packages_of(python) / "src" / "database" / "_packaged" / "migrations" / "versions"
    (versions / "later.py").write_text(LATER.format(later=later, newest=newest))
    upgraded = thea_db("upgrade")

    assert f"the schema is at {later} (head): 1 migration" in upgraded
    assert "the service's schema is at 357a54ec1117 (head): nothing to do" in upgraded
    assert count_after_adding_a_task() == "2\n"
    assert_tests_pass(python, service)


def assert_tests_pass(python: Path, service: Path) -> None:
    tests = re.findall(r"^async def test_", (service / "tests" / "test_assistant.py").read_text(), re.MULTILINE)
    printed = run(python, "-m", "pytest", "-q", "-W", "error", folder=service)

    assert f"{len(tests)} passed" in printed


def test_the_service_has_no_type_error(python: Path, service: Path) -> None:
    run(
        *(sys.executable, "-m", "mypy", "--python-executable", python, "--explicit-package-bases"),
        *("--cache-dir", ROOT / ".cache" / "mypy-assistant", "assistant", "tests"),
        folder=service,
    )
