"""Generated migrations: `revision --autogenerate` against a database that is behind, and `make format`."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.config import Settings
from src.database.errors import ConfigurationError
from src.database.migrate import revision
from tests.migrations.drafts import Drafts

ROOT = Path(__file__).parents[2]
UNFORMATTED = """    op.create_table('ghosts',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.ForeignKeyConstraint(['tenant_id', 'user_id'], ['users.tenant_id', 'users.id'],{blanks} name=op.f('fk_user_id')),
    )
""".format(blanks=" " * 40)


async def test_autogenerate_on_an_older_database_suggests_upgrade(owner_settings: Settings, drafts: Drafts) -> None:
    drafts.add("newer", "pass")

    with pytest.raises(ConfigurationError, match="newest revision, newer: this database is behind") as caught:
        await revision(owner_settings, "too early", autogenerate=True, folder=drafts.folder)

    assert "`thea-db upgrade`" in str(caught.value.hint)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_format_formats_a_generated_migration(tmp_path: Path) -> None:
    versions = tmp_path / "migrations" / "versions"
    versions.mkdir(parents=True)
    written = asyncio.run(revision(Settings(ENVIRONMENT="test"), "a message without a period", folder=versions))
    written.write_text(written.read_text().replace("    pass\n", UNFORMATTED))
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    ready = tmp_path / "ready"
    ready.touch()

    done = subprocess.run(
        [str(shutil.which("make")), "format", f"READY={ready}", f"BIN={Path(sys.executable).parent}"],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert '        "ghosts",\n' in written.read_text()
