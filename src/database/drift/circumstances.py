"""What no migration builds: who may do what, and by which rules text is in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from src.database.drift.catalog import Catalogue
from src.database.drift.difference import Difference

__all__ = ["collations", "rights", "rights_of_public"]

_NEEDED: Final = {"TABLE": ("SELECT", "INSERT", "UPDATE", "DELETE"), "SEQUENCE": ("USAGE",)}
_OF_ROUTINES: Final = ("EXECUTE",)
_DANGEROUS: Final = ("REFERENCES", "TRIGGER", "TRUNCATE")
"""What goes past row-level security, or has others run one's code."""
_ALEMBIC: Final = "TABLE alembic_version"
_WRITES: Final = ("INSERT", "UPDATE", "DELETE")
"""On Alembic's table: a role that writes there can have migrations applied twice, or never."""


def rights_of_public(expected: Catalogue, live: Catalogue) -> Iterator[Difference]:
    """Name what everybody may and should not: less is no fault, as long as the application may."""
    views = [f"TABLE {name}" for name in expected.of("view")]
    ours = {*_things(expected), *views, _ALEMBIC, f"SCHEMA {live.schema}"}
    for thing, facts in live.of("rights of PUBLIC").items():
        if thing not in ours:
            continue
        name = thing if not thing.startswith("SCHEMA ") else f"SCHEMA {expected.schema}"
        wanted = expected.of("rights of PUBLIC").get(name, {"rights": []})["rights"]
        if thing.startswith("SCHEMA "):
            wanted = [*wanted, "USAGE"]
        if more := [right for right in facts["rights"] if right not in wanted]:
            yield Difference(
                kind="rights of PUBLIC",
                object=thing,
                attribute="rights",
                expected=[right for right in wanted if right in facts["rights"]],
                found=facts["rights"],
                remedy=(f"REVOKE {', '.join(more)} ON {thing} FROM PUBLIC",),
                severity="warning",
            )


def rights(expected: Catalogue, live: Catalogue) -> Iterator[Difference]:
    """Name what the role that asked may not and should, or may and should not; an owner may all.

    On what is missing it has no rights, and may have none on what is made in its place.
    """
    held = live.of("rights")
    if not held or all(facts["_owns"] for facts in held.values()):
        return
    role = next(iter(held.values()))["_role"]
    for thing in [*_things(expected), _ALEMBIC]:
        facts = held.get(thing, {"_owns": False, "rights": []})
        if facts["_owns"] or (thing not in held and (thing == _ALEMBIC or thing in expected.of("rights of PUBLIC"))):
            continue
        needed = ("SELECT",) if thing == _ALEMBIC else _NEEDED.get(thing.split()[0], _OF_ROUTINES)
        has = facts["rights"]
        if lacking := [right for right in needed if right not in has]:
            grant = f"GRANT {', '.join(lacking)} ON {thing} TO {role}"
            yield _right(thing, role, needed, has, grant, is_lacking=thing != _ALEMBIC)
        not_its_own = (*_WRITES, *_DANGEROUS) if thing == _ALEMBIC else _DANGEROUS
        if more := [right for right in not_its_own if right in has]:
            revoke = f"REVOKE {', '.join(more)} ON {thing} FROM {role}"
            yield _right(thing, role, needed, has, revoke, is_lacking=False)


def collations(live: Catalogue) -> Iterator[Difference]:
    """Name the collations that the system has another version of: indexes over text may miss rows."""
    for thing, facts in live.of("collation version").items():
        if facts["recorded"] == facts["actual"] or facts["actual"] is None:
            continue
        name = facts["_name"]
        remedy: tuple[str, ...]
        if facts["_of"] == "DATABASE":
            remedy = (f"REINDEX DATABASE CONCURRENTLY {name}", f"ALTER DATABASE {name} REFRESH COLLATION VERSION")
        else:
            indexes = [f"REINDEX INDEX CONCURRENTLY {index}" for index in facts["_indexes"] or []]
            remedy = (*indexes, f"ALTER COLLATION {name} REFRESH VERSION")
        yield Difference(
            kind="collation version",
            object=thing,
            attribute="version",
            expected=facts["recorded"],
            found=facts["actual"],
            remedy=remedy,
            severity="warning",
        )


def _things(expected: Catalogue) -> list[str]:
    """Return what rights are held on, as GRANT names it."""
    routines = [f"{facts['_kind']} {name}" for name, facts in expected.of("function").items()]
    tables = [f"TABLE {name}" for name in expected.of("table")]
    return [*tables, *(f"SEQUENCE {name}" for name in expected.of("sequence")), *routines]


def _right(
    thing: str, role: str, needed: tuple[str, ...], has: list[str], statement: str, *, is_lacking: bool
) -> Difference:
    return Difference(
        kind=f"rights of {role}",
        object=thing,
        attribute="rights",
        expected=list(needed),
        found=has,
        remedy=(statement,),
        severity="error" if is_lacking else "warning",
    )
