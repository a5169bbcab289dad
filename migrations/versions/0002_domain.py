"""The turn lease, wall-clock times, notes found without accents, names without their case; what retention needs.

Revision ID: 0002
Revises: 0001
Create Date: 2026-11-22
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from src.database.errors import ConfigurationError, DatabaseError

revision: str = "0002"
down_revision: str | Sequence[str] | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

ACTIVE = sa.text("is_active AND deleted_at IS NULL")
DELETED = sa.text("deleted_at IS NOT NULL")
PURGED = ("conversations", "message_history", "notes")

_ACCENTED = "ÁÀÂÄÃÅáàâäãåÉÈÊËéèêëÍÌÎÏíìîïÓÒÔÖÕóòôöõÚÙÛÜúùûüÑñÇçÝýÿ¿¡«»“”‘’‹›„‚—–…·"  # noqa: RUF001 - those very signs
_BARE = f"AAAAAAaaaaaaEEEEeeeeIIIIiiiiOOOOOoooooUUUUuuuuNnCcYyy{' ' * 16}"
_PLAIN = f"translate(normalize({{0}}, NFC), '{_ACCENTED}', '{_BARE}')"
_WORDS = " || ".join(f"to_tsvector('{name}', {_PLAIN})" for name in ("simple", "spanish", "english"))
TITLE, CONTENT = "coalesce(title, '')", "content"
NEW_SEARCH = f"setweight({_WORDS.format(TITLE)}, 'A') || setweight({_WORDS.format(CONTENT)}, 'B')"
OLD_SEARCH = (
    "setweight(to_tsvector('spanish', coalesce(title, '')) || to_tsvector('english', coalesce(title, '')), 'A')"
    " || setweight(to_tsvector('spanish', content) || to_tsvector('english', content), 'B')"
)
ZONE_REMEDY = (
    "BEGIN; ALTER TABLE events NO FORCE ROW LEVEL SECURITY;"
    " UPDATE events SET timezone = 'UTC' WHERE timezone = ?;"
    " ALTER TABLE events FORCE ROW LEVEL SECURITY; COMMIT;"
)


def upgrade() -> None:
    op.add_column(
        "conversations", sa.Column("turn_token", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    )
    op.add_column("conversations", sa.Column("turn_claimed_by", sa.Text(), nullable=True))
    op.add_column("conversations", sa.Column("turn_claimed_until", sa.DateTime(timezone=True), nullable=True))
    op.create_check_constraint(op.f("ck_conversations_turn_token"), "conversations", "turn_token >= 0")
    op.create_check_constraint(
        op.f("ck_conversations_turn_claim"),
        "conversations",
        "(turn_claimed_by IS NULL) = (turn_claimed_until IS NULL)",
    )
    # Also those where nothing was ever said.
    op.drop_index("ix_conversations_idle", table_name="conversations")
    since = sa.text("coalesce(last_message_at, created_at)")
    op.create_index("ix_conversations_idle", "conversations", ["tenant_id", since], postgresql_where=ACTIVE)
    _check_zones()
    wall_clock = sa.Computed("start_datetime AT TIME ZONE timezone", persisted=True)
    op.add_column("events", sa.Column("start_local", sa.DateTime(), wall_clock, nullable=False))
    _replace_search(NEW_SEARCH)
    # A user's export has his deleted notes too.
    op.drop_index("ix_notes_user_id", table_name="notes")
    op.create_index("ix_notes_user_id", "notes", ["tenant_id", "user_id", "id"])
    # What was interrupted has ended, and is no worker's business any more.
    _replace_unfinished("state = 'incomplete'")
    # lower() is not leakproof: under row-level security no index on it serves.
    op.drop_index("ix_users_username", table_name="users")
    lower = sa.Computed("lower(username)", persisted=True)
    op.add_column("users", sa.Column("username_lower", sa.Text(), lower, nullable=True))
    op.create_index("ix_users_username_lower", "users", ["tenant_id", "username_lower"])
    for table in PURGED:
        op.create_index(f"ix_{table}_deleted_at", table, ["tenant_id", "deleted_at"], postgresql_where=DELETED)


def downgrade() -> None:
    for table in PURGED:
        op.drop_index(f"ix_{table}_deleted_at", table_name=table)
    op.drop_index("ix_notes_user_id", table_name="notes")
    not_deleted = sa.text("deleted_at IS NULL")
    op.create_index("ix_notes_user_id", "notes", ["tenant_id", "user_id", "id"], postgresql_where=not_deleted)
    op.drop_column("users", "username_lower")  # with its index
    op.create_index("ix_users_username", "users", ["tenant_id", sa.text("lower(username)")])
    _replace_unfinished("state <> 'complete'")
    _replace_search(OLD_SEARCH)
    op.drop_column("events", "start_local")
    op.drop_index("ix_conversations_idle", table_name="conversations")
    idle = ["tenant_id", "last_message_at"]
    op.create_index("ix_conversations_idle", "conversations", idle, postgresql_where=ACTIVE)
    for column in ("turn_claimed_until", "turn_claimed_by", "turn_token"):  # with their checks
        op.drop_column("conversations", column)


def _check_zones() -> None:
    """Say which events have a zone that the server does not know: making their wall-clock time would fail without that.

    The owner sees no tenant's rows behind a forced wall, so it is lowered for the question, in this transaction.

    Raises:
        ConfigurationError: There are such events.
    """
    if op.get_context().as_sql:
        return
    connection = op.get_bind()
    op.execute("ALTER TABLE events NO FORCE ROW LEVEL SECURITY")
    found = connection.execute(
        sa.text(
            "SELECT timezone, count(*), min(id::text) FROM events WHERE lower(timezone) NOT IN"
            " (SELECT lower(name) FROM pg_timezone_names UNION SELECT lower(abbrev) FROM pg_timezone_abbrevs)"
            " GROUP BY timezone ORDER BY timezone"
        )
    ).all()
    op.execute("ALTER TABLE events FORCE ROW LEVEL SECURITY")
    unknown = [row for row in found if not _is_known(connection, row.timezone)]
    if unknown:
        named = "; ".join(f"{zone!r} of {number:,} events, one of them {one}" for zone, number, one in unknown[:10])
        first = _quoted(unknown[0].timezone)
        raise ConfigurationError(
            f"the server does not know the timezone {named}",
            hint=f"give them one that it knows, and upgrade again; as the owner: {ZONE_REMEDY.replace('?', first)}",
        )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _is_known(connection: sa.Connection, zone: str) -> bool:
    """Ask the server, which takes POSIX's zones too."""
    try:
        with connection.begin_nested():
            connection.execute(sa.text("SELECT now() AT TIME ZONE :zone"), {"zone": zone})
    except (sa.exc.DBAPIError, DatabaseError):
        return False
    return True


def _replace_unfinished(predicate: str) -> None:
    name, columns = "ix_message_history_unfinished", ["tenant_id", "conversation_id", "seq"]
    op.drop_index(name, table_name="message_history")
    op.create_index(name, "message_history", columns, postgresql_where=sa.text(predicate))


def _replace_search(expression: str) -> None:
    """Have the server make it anew: before PostgreSQL 17 a generated column's expression cannot be changed."""
    op.drop_column("notes", "search")
    computed = sa.Computed(expression, persisted=True)
    op.add_column("notes", sa.Column("search", postgresql.TSVECTOR(), computed, nullable=False))
