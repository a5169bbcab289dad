<%! from src.database.migrate import heads %>\
"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}

The previous and the new release run on this schema at the same time: add now, and remove in a later release what no
running release uses.

- A new table with rows of tenants: call `protect("<table>")` after `op.create_table`; `thea-db check` fails without it. Every
  primary key, unique constraint, index and foreign key starts with `tenant_id`.
- A new column: nullable, or with a constant default. NOT NULL after all running code sets the column: `add_check`,
  `backfill`, `validate`, `set_not_null`, each in its own revision. Never change the type or the name of a column: add a
  column, `backfill` it, and drop the old one in a later release.
- An index on a table with rows: `create_index_concurrently`. A constraint: `add_check` or `add_foreign_key`, and
  `validate` in the next revision.
- Changes of rows: `backfill`. Under row-level security, an UPDATE by op.execute changes no row and reports no error.
- `create_index_concurrently`, `drop_index_concurrently` and `backfill` come first in a revision, preferably alone: they
  commit, and can be repeated after an interruption. An `autocommit_block` of your own cannot be repeated.
- ALTER TABLE and DROP lock their table until the revision ends: change one table in a revision. Each waits 5 s at most
  for its lock, and every other session that uses the table waits behind it.
- `downgrade` reverts all of it.

Delete this list and the unused imports, and format the file.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from src.database.migrate.operations import (
    add_check,
    add_foreign_key,
    backfill,
    create_index_concurrently,
    drop_index_concurrently,
    set_not_null,
    validate,
)
from src.database.migrate.row_level_security import protect
% if imports:
${imports}
% endif

revision: str = ${repr(up_revision)}
down_revision: str | Sequence[str] | None = ${repr(down_revision)}
branch_labels: str | Sequence[str] | None = ${repr(branch_labels)}
depends_on: str | Sequence[str] | None = ${repr(depends_on)}
% if getattr(config.attributes.get("history"), "name", None) == "service":
# The revision of thea-database that the database must have.
requires_thea: str | None = ${repr(heads()[0])}
% endif


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
