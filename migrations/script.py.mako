"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}

Old and new code run on this schema at once: add now, and remove what nobody reads any more in a later release.

- A new table of tenants' rows: `protect("<table>")` after `op.create_table`, or a test fails. Every key, unique, index
  and foreign key starts with `tenant_id`.
- A new column: nullable, or with a constant default. NOT NULL once all running code fills it: `add_check`, `backfill`,
  `validate`, `set_not_null`, each in a revision of its own. No change of a column's type, no renaming: a new column,
  `backfill`, and the old one goes later.
- An index on a table that has rows: `create_index_concurrently`. A rule: `add_check` or `add_foreign_key`, and
  `validate` in the next revision.
- Rows: `backfill`. An UPDATE of one's own changes nothing under row-level security, and says nothing.
- `create_index_concurrently`, `drop_index_concurrently` and `backfill` come first in a revision, best alone in it: they
  commit by themselves, and can be begun again. An `autocommit_block` of one's own cannot.
- One table a revision, where its lock stops others (ALTER TABLE, DROP): they wait for 5 s at most, a table.
- `downgrade` takes all of it back.

Delete the imports that are not used, and this list; `make format`.
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
${imports if imports else ""}
revision: str = ${repr(up_revision)}
down_revision: str | Sequence[str] | None = ${repr(down_revision)}
branch_labels: str | Sequence[str] | None = ${repr(branch_labels)}
depends_on: str | Sequence[str] | None = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
