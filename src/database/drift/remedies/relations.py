"""Mends tables, sequences and views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from src.database.drift.catalog import Catalogue
from src.database.drift.difference import Case, Statements
from src.database.drift.remedies.columns import definition
from src.database.drift.remedies.remedy import REWRITES, Remedy, at_once, never

__all__ = ["SEQUENCE", "SEQUENCE_OWNER", "TABLE", "VIEW"]

_SWITCHES: Final[Mapping[str, tuple[str, str]]] = {
    "row-level security": ("ENABLE", "DISABLE"),
    "forced row-level security": ("FORCE", "NO FORCE"),
}


def _missing_table(case: Case) -> Statements:
    name, facts = case.object, case.wanted
    columns = sorted(_columns(case.expected, name), key=lambda column: int(column["_place"]))
    unlogged = "UNLOGGED " if facts["persistence"] == "UNLOGGED" else ""
    partition = f" PARTITION BY {facts['partition key']}" if facts["partition key"] else ""
    written = ",\n    ".join(map(definition, columns))
    switched = [_switch(case, attribute) for attribute in _SWITCHES if facts[attribute]]
    return (
        *_lookalikes(case),
        f"-- {name} comes back empty: what it held is in a backup",
        *at_once(f"CREATE {unlogged}TABLE {name} (\n    {written}\n){partition}", *switched),
    )


def _columns(catalogue: Catalogue, table: str) -> list[Any]:
    return [facts for facts in catalogue.of("column").values() if facts["table"] == table]


def _lookalikes(case: Case) -> Statements:
    """Name the tables that have the same columns: the one that is missing may have been renamed."""
    wanted = {column["_name"] for column in _columns(case.expected, case.object)}
    names = [
        name
        for name in case.live.of("table")
        if name not in case.expected.of("table") and {column["_name"] for column in _columns(case.live, name)} == wanted
    ]
    return tuple(
        f"-- {name} has its columns: if it is this one, only ALTER TABLE {name} RENAME TO {case.object}"
        for name in names
    )


def _changed_table(case: Case, attribute: str) -> Statements:
    if attribute in _SWITCHES:
        return (_switch(case, attribute),)
    if attribute == "persistence":
        return (REWRITES, f"ALTER TABLE {case.object} SET {case.wanted['persistence']}")
    return (f"-- {case.object} was made over by hand: make it anew and move its rows, or restore a backup",)


def _switch(case: Case, attribute: str) -> str:
    on, off = _SWITCHES[attribute]
    return f"ALTER TABLE {case.object} {on if case.wanted[attribute] else off} ROW LEVEL SECURITY"


def _options(case: Case) -> str:
    facts = case.wanted
    return (
        f"AS {facts['type']} INCREMENT BY {facts['increment']} MINVALUE {facts['minimum']} MAXVALUE {facts['maximum']}"
        f" START WITH {facts['start']} CACHE {facts['cache']} {'CYCLE' if facts['cycle'] else 'NO CYCLE'}"
    )


def _missing_sequence(case: Case) -> Statements:
    name = case.object
    unlogged = "UNLOGGED " if case.wanted["persistence"] == "UNLOGGED" else ""
    return (
        f"CREATE {unlogged}SEQUENCE {name} {_options(case)}",
        f"-- then SELECT setval('{name}', …) to the largest number in use: it begins at {case.wanted['start']}",
    )


def _changed_sequence(case: Case, attribute: str) -> Statements:
    match attribute:
        case "table":
            return ()  # its owner is a difference of its own
        case "persistence":
            return (f"ALTER SEQUENCE {case.object} SET {case.wanted['persistence']}",)
        case _:
            return (f"ALTER SEQUENCE {case.object} {_options(case)}",)


def _own_sequence(case: Case) -> Statements:
    return (f"ALTER SEQUENCE {case.object} OWNED BY {case.wanted['owner']}",)


def _missing_view(case: Case) -> Statements:
    facts = case.wanted
    options = f" WITH ({facts['options']})" if facts["options"] else ""
    return (f"CREATE {facts['kind']} {case.object}{options} AS\n{facts['definition']}",)


def _changed_view(case: Case, _attribute: str) -> Statements:
    drop = f"DROP {case.found['kind']} {case.object}"
    return ("-- rights on it have to be granted again", *at_once(drop, *_missing_view(case)))


TABLE: Final = Remedy(make=_missing_table, change=_changed_table, drop=never)
SEQUENCE: Final = Remedy(
    make=_missing_sequence,
    change=_changed_sequence,
    drop=lambda case: (f"DROP SEQUENCE {case.object}",),
)
SEQUENCE_OWNER: Final = Remedy(make=_own_sequence, change=lambda case, _attribute: _own_sequence(case), drop=never)
VIEW: Final = Remedy(make=_missing_view, change=_changed_view, drop=never)
