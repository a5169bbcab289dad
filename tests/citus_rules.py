"""Rules for the text of statements on distributed tables, from tests with Citus 13 on PostgreSQL 15.

Citus rejects a statement that breaks a rule. PostgreSQL accepts it, so that no other test would notice.
"""

from __future__ import annotations

import re
from typing import Final

from src.database.base import tenant_tables
from src.database.models import User

__all__ = ["RULES", "broken"]

_TABLES: Final = "|".join(table.name for table in tenant_tables(User.metadata))
_SCHEMA: Final = r"(?:\{schema\}\.|public\.)?"
_TABLE: Final = re.compile(
    rf"\b(?:FROM|JOIN|UPDATE|USING)\s+(?:ONLY\s+)?{_SCHEMA}({_TABLES})\b(?:\s+AS\s+(\w+))?", re.IGNORECASE
)
_CLOCK: Final = (
    r"(?:now|statement_timestamp|transaction_timestamp|clock_timestamp|gen_random_uuid|uuidv7|random|nextval)\("
)
_VOLATILE: Final = r"\b(?:clock_timestamp|gen_random_uuid|uuidv7|random|nextval)\("
_UPDATE: Final = rf"\bUPDATE\s+(?:ONLY\s+)?{_SCHEMA}\w+(?:\s+AS\s+\w+)?\s+SET\b"
_ASSIGNMENTS: Final = rf"{_UPDATE}(?:(?!\bWHERE\b|\bFROM\b|\bRETURNING\b).)*?"

RULES: Final[dict[str, str]] = {
    "now() or a volatile function in DO UPDATE SET: bind the value": (
        rf"\bDO UPDATE SET\b(?:(?!\bRETURNING\b).)*{_CLOCK}"
    ),
    "an UPDATE of tenant_id": rf"{_UPDATE}\s+(?:(?!\bWHERE\b).)*?(?<![\w.])tenant_id\s*=",
    "a volatile function in an UPDATE: bind the value": rf"{_UPDATE}.*?{_VOLATILE}",
    "now() in CASE or COALESCE of an UPDATE: bind the value, or (SELECT now())": (
        rf"{_ASSIGNMENTS}\b(?:CASE\b(?:(?!\bEND\b).)*?|coalesce\([^()]*)(?<!SELECT )(?<!SELECT pg_catalog\.){_CLOCK}"
    ),
    "a time column + an interval in an UPDATE: compute AT TIME ZONE 'UTC'": (
        rf"{_ASSIGNMENTS}\b\w+_(?:at|until|datetime)\s*\+"
    ),
    "an INSERT ... SELECT of generated rows: select tenant_id from a table": (
        r"\bINSERT INTO\s+\S+(?:\s+AS\s+\w+)?\s*\(\s*tenant_id\b[^)]*\)\s*SELECT\s+(?!\w+\.tenant_id\b)"
    ),
    "an anonymous row(...): typed columns, or jsonb_build_array": r"(?<![\w.])row\(",
    "a setting of the session: only settings of the transaction reach the workers": (
        r"set_config\([^()]*,\s*false\s*\)|(?<![\w.])SET\s+(?:SESSION|plan_cache_mode|app\.tenant_id)\b"
    ),
    "an advisory lock: each node has its own": r"pg_(?:try_)?advisory",
    "COPY: refused for a role under row-level security": r"(?<![\w.])COPY\s+\S+\s+FROM\b",
    "a trigger": r"\bCREATE\s+(?:CONSTRAINT\s+)?TRIGGER\b",
    "SECURITY DEFINER: the worker runs it as the owner": r"\bSECURITY\s+DEFINER\b",
}
"""The rule, and the text that breaks it."""
_WITHOUT_TENANT: Final = "a table without its tenant: tenant_id = ... for each table in the statement"


def broken(statement: str) -> list[str]:
    """Return the rules that a statement breaks; comments in it are left out."""
    text = re.sub(r"\s+", " ", re.sub(r"--[^\n]*", "", statement)).strip()
    found = [rule for rule, pattern in RULES.items() if re.search(pattern, text, re.IGNORECASE)]
    tables = {alias or table for table, alias in _TABLE.findall(text)}
    tenants = set(re.findall(r"\b(\w+)\.tenant_id\s*(?:=|IN\b)", text)) | set(
        re.findall(r"=\s*(\w+)\.tenant_id\b", text)
    )
    return found + ([_WITHOUT_TENANT] if tables - tenants else [])
