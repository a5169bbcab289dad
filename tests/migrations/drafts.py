"""Example revisions, each after the previous one, in a folder beside the released revisions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from textwrap import indent

from src.database.migrate import heads

REVISION = '''"""{revision}, an example."""

import sqlalchemy as sa
from alembic import op

from src.database.migrate.operations import *

revision = {revision!r}
down_revision = {follows!r}
branch_labels = depends_on = None


def upgrade():
{up}


def downgrade():
{down}
'''


@dataclass
class Drafts:
    folder: Path
    newest: str = field(default_factory=lambda: heads()[0])

    def add(self, revision: str, up: str, down: str = "pass") -> None:
        text = REVISION.format(revision=revision, follows=self.newest, up=indent(up, "    "), down=indent(down, "    "))
        (self.folder / f"{revision}.py").write_text(text)
        self.newest = revision


def expand_and_contract(drafts: Drafts) -> None:
    """A column that becomes NOT NULL, and an index that replaces another: every operation is used."""
    drafts.add("e1", "op.add_column('users', sa.Column('nickname', sa.Text()))", "op.drop_column('users', 'nickname')")
    drafts.add(
        "e2",
        'backfill("UPDATE users SET nickname = username WHERE tenant_id = :tenant_id AND id IN (SELECT id FROM users'
        ' WHERE tenant_id = :tenant_id AND nickname IS NULL LIMIT :batch)", batch=3)',
    )
    drafts.add(
        "e3",
        "add_check('ck_users_nickname', 'users', 'nickname IS NOT NULL')",
        "op.drop_constraint('ck_users_nickname', 'users')",
    )
    drafts.add("e4", "validate('users', 'ck_users_nickname')")
    drafts.add(
        "e5",
        "set_not_null('users', 'nickname', check='ck_users_nickname')",
        "op.alter_column('users', 'nickname', nullable=True)\n"
        "add_check('ck_users_nickname', 'users', 'nickname IS NOT NULL')",
    )
    drafts.add(
        "e6",
        "create_index_concurrently('ix_users_nickname', 'users', ['tenant_id', sa.text('lower(nickname)')],"
        " unique=True, postgresql_where=sa.text('deleted_at IS NULL'))",
        "drop_index_concurrently('ix_users_nickname')",
    )
    drafts.add(
        "e7",
        "drop_index_concurrently('ix_tenants_active')",
        "create_index_concurrently('ix_tenants_active', 'tenants', ['id'],"
        " postgresql_where=sa.text(\"status = 'active'\"))",
    )
    drafts.add(
        "e8",
        "op.create_table('teams', sa.Column('id', sa.Integer(), primary_key=True))\n"
        "op.add_column('users', sa.Column('team', sa.Integer()))\n"
        "add_foreign_key('fk_users_team', 'users', ['team'], 'teams', ['id'])",
        "op.drop_column('users', 'team')\nop.drop_table('teams')",
    )
    drafts.add("e9", "validate('users', 'fk_users_team')")
