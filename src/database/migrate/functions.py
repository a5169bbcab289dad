"""SQL functions in migrations: a revision has frozen copies of the bodies, one function a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import op

__all__ = ["create_functions", "drop_functions"]

_SIGNATURE: Final = re.compile(r"CREATE FUNCTION \{schema\}\.(\w+)\(")


def create_functions(folder: Path) -> None:
    """Create the functions of a revision in the schema of the tables; one that exists under its name is replaced.

    Args:
        folder: The revision's copies, `<function>.sql`; `{schema}` in them stands for the schema.
    """
    schema = _schema()
    for file in sorted(folder.glob("*.sql")):
        body = file.read_text(encoding="utf-8").replace("{schema}", schema)
        op.execute(body.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1))


def drop_functions(folder: Path) -> None:
    """Drop the functions of a revision."""
    schema = _schema()
    for file in sorted(folder.glob("*.sql"), reverse=True):
        for name in _SIGNATURE.findall(file.read_text(encoding="utf-8")):
            op.execute(f"DROP FUNCTION {schema}.{name}")


def _schema() -> str:
    """Return the schema that the tables are in, quoted; `public` if a script is written, since no server is asked."""
    context = op.get_context()
    if context.as_sql or context.connection is None:
        return "public"
    return str(context.connection.scalar(sa.text("SELECT quote_ident(current_schema())")))
