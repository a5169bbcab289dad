"""A database of another system's migrations, whose tables have the names of this package's tables."""

from __future__ import annotations

from typing import Final

import psycopg

__all__ = ["REVISION", "dump", "make"]

REVISION: Final = "e0a17d850507"
TABLES: Final = """
CREATE TABLE users (id serial PRIMARY KEY, telegram_id bigint UNIQUE, name text NOT NULL);
CREATE TABLE conversations (id serial PRIMARY KEY, user_id integer REFERENCES users, title text);
CREATE TABLE message_history (id serial PRIMARY KEY, conversation_id integer REFERENCES conversations, content text);
CREATE TABLE events (id serial PRIMARY KEY, user_id integer REFERENCES users, title text, at timestamp);
CREATE TABLE notes (id serial PRIMARY KEY, user_id integer REFERENCES users, body text);
CREATE TABLE tenants (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), slug text UNIQUE, name text);
CREATE INDEX ix_notes_body ON notes (body);
INSERT INTO users (telegram_id, name) VALUES (1, 'Ada');
INSERT INTO notes (user_id, body) VALUES (1, 'mine');
INSERT INTO tenants (slug, name) VALUES ('theirs', 'Theirs');
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
"""
_CATALOG: Final = """
SELECT c.relname, c.relkind, c.relowner, c.relacl::text, c.relrowsecurity, a.attname, a.atttypid
  FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
 WHERE c.relnamespace = 'public'::regnamespace ORDER BY 1, a.attnum
"""
_REST: Final = """
SELECT (SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace), (SELECT datdba FROM pg_database
  WHERE datname = current_database()), (SELECT count(*) FROM pg_constraint WHERE connamespace = 'public'::regnamespace)
"""


def make(connection: psycopg.Connection, revision: str | None = REVISION) -> None:
    """Create the tables; None leaves the table of revisions out."""
    connection.execute(TABLES.encode())
    if revision is None:
        connection.execute("DROP TABLE alembic_version")
    else:
        connection.execute("INSERT INTO alembic_version VALUES (%s)", [revision])


def dump(connection: psycopg.Connection) -> list[object]:
    """Return all that a command could have changed: the catalog, and the rows."""
    tables = connection.execute("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 2200 ORDER BY 1")
    rows = [(name, connection.execute(f'TABLE "{name}"'.encode()).fetchall()) for (name,) in tables.fetchall()]
    return [connection.execute(_CATALOG).fetchall(), connection.execute(_REST).fetchall(), rows]
