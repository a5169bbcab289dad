"""Mends indexes while the table is in use."""

from __future__ import annotations

from typing import Final

from src.database.drift.difference import Case, Statements
from src.database.drift.remedies.remedy import Remedy

__all__ = ["REMEDY"]

_NEW: Final = "thea_new_index"


def _missing(case: Case) -> Statements:
    return (_create(case, case.name),)


def _extra(case: Case) -> Statements:
    return (f"DROP INDEX CONCURRENTLY {case.name}",)


def _changed(case: Case, attribute: str) -> Statements:
    if attribute == "valid":
        return (f"REINDEX INDEX CONCURRENTLY {case.name}",)
    # The new one first: nobody is ever without.
    return (_create(case, _NEW), *_extra(case), f"ALTER INDEX {_NEW} RENAME TO {case.name}")


def _create(case: Case, name: str) -> str:
    facts = case.wanted
    unique = "UNIQUE " if facts["unique"] else ""
    return f"CREATE {unique}INDEX CONCURRENTLY {name} ON {case.table} {facts['definition']}"


REMEDY: Final = Remedy(make=_missing, change=_changed, drop=_extra)
