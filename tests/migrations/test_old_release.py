"""A release on the schema of the next release, after an expand step: additions break no statement."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from src.config import Settings
from src.database import get_db, tenant_context
from src.database.base import uuid7
from src.database.migrate import upgrade
from src.database.models import Tenant
from tests.acceptance.calls import CALLS, fill
from tests.migrations.drafts import Drafts

ROOT = Path(__file__).parents[2]


@pytest.fixture
def expand(drafts: Drafts) -> Path:
    """The additions that the next release may make while this release runs."""
    drafts.add("column", "op.add_column('users', sa.Column('nickname', sa.Text()))")
    drafts.add("constant", "op.add_column('notes', sa.Column('colour', sa.Text(), server_default='', nullable=False))")
    drafts.add("index", "create_index_concurrently('ix_users_nickname', 'users', ['tenant_id', 'nickname'])")
    drafts.add("check", "add_check('ck_users_nickname', 'users', 'length(nickname) BETWEEN 1 AND 100')")
    drafts.add("validated", "validate('users', 'ck_users_nickname')")
    return drafts.folder


@pytest.mark.slow
async def test_every_repository_works_on_the_next_schema(
    owner_settings: Settings, expand: Path, *, is_long: bool
) -> None:
    step = 1 if is_long else 4
    assert len((await upgrade(owner_settings, folder=expand)).steps) == 5

    for repository, calls in CALLS.items():
        for call in list(calls.values())[::step]:  # some tests commit: each has its own tenant
            with tenant_context(uuid7()) as tenant:
                async with get_db() as session:
                    session.add(Tenant(id=tenant, slug=f"t-{tenant}", name="T"))
                    await session.flush()
                    await call.run(repository(session), await fill(session))


def test_the_suite_passes_on_the_next_schema(expand: Path, *, is_long: bool) -> None:
    if not is_long:
        pytest.skip("it runs the repositories' tests once more: --long")
    unset = ("THEA_TEST_SERVER", "PYTEST_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(unset)}

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/database/repositories"],
        cwd=ROOT,
        env={**environment, "THEA_TEST_REVISIONS": str(expand)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
