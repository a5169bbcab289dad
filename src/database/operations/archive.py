"""What a backup has in it: each table's rows and walls, read in one snapshot and written down beside the archive."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg

from src.database.errors import ConfigurationError

__all__ = ["Manifest", "Table", "compare", "digest", "manifest_path", "read_manifest", "read_tables", "unguarded"]

FORMAT: Final = 1
_CHUNK: Final = 2**20

# Tables of extensions are made by the extension, and so is what is in them.
_TABLES: Final = """
SELECT format('%I.%I', nspname, relname) AS name, relrowsecurity AS row_security, relforcerowsecurity AS forced,
       pg_catalog.row_security_active(pg_class.oid) AS binds_us,
       EXISTS (SELECT FROM pg_catalog.pg_attribute
                WHERE attrelid = pg_class.oid AND attname = 'tenant_id' AND NOT attisdropped) AS has_tenants,
       ARRAY(SELECT polname || ' for ' || polcmd::text FROM pg_catalog.pg_policy
              WHERE polrelid = pg_class.oid ORDER BY 1) AS policies
  FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
 WHERE relkind IN ('r', 'p') AND relpersistence <> 't' AND nspname !~ '^pg_' AND nspname <> 'information_schema'
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend
                    WHERE classid = 'pg_catalog.pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e')
 ORDER BY 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table's rows, all tenants' together, and its walls."""

    rows: int
    row_security: bool
    forced: bool
    policies: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What is written beside an archive: `<archive>.json`."""

    database: str
    server_version: int
    """Its major."""
    program_version: int
    """pg_dump's major."""
    taken_at: str
    """ISO 8601, by the server's clock."""
    revision: str | None
    sha256: str
    """Of the archive."""
    tables: dict[str, Table]
    format: int = FORMAT

    @property
    def rows(self) -> int:
        """Of all tables."""
        return sum(table.rows for table in self.tables.values())

    def as_json(self) -> str:
        """Return the text of the file."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def manifest_path(archive: Path) -> Path:
    """Return where an archive's manifest is."""
    return archive.with_name(f"{archive.name}.json")


def read_manifest(archive: Path) -> Manifest | None:
    """Return what is written beside an archive; None where nothing is.

    Raises:
        ConfigurationError: It cannot be read as one.
    """
    path = manifest_path(archive)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        tables = {name: Table(**table) for name, table in document.pop("tables").items()}
        manifest = Manifest(**document, tables=tables)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigurationError(f"{path} must be the manifest of a backup: {type(error).__name__}") from None
    if manifest.format != FORMAT:
        raise ConfigurationError(
            f"{path} is of format {manifest.format}, and this release reads {FORMAT}",
            hint="take the release of thea-database that made the backup, or a later one",
        )
    return manifest


async def read_tables(connection: asyncpg.Connection[Any]) -> dict[str, Table]:
    """Count every table's rows, all tenants' together, in the transaction that is open.

    Where row-level security binds the role it has to be the owner, who lifts FORCE for the count: the caller rolls
    back.
    """
    found = {}
    for row in await connection.fetch(_TABLES):
        if row["binds_us"]:
            await connection.execute(f"ALTER TABLE {row['name']} NO FORCE ROW LEVEL SECURITY")
        found[row["name"]] = Table(
            rows=await connection.fetchval(f"SELECT count(*) FROM {row['name']}"),  # noqa: S608 - quoted by the server
            row_security=row["row_security"],
            forced=row["forced"],
            policies=list(row["policies"]),
        )
    return found


async def unguarded(connection: asyncpg.Connection[Any]) -> list[str]:
    """Name the tables of tenants' rows that row-level security does not guard, or not from their owner."""
    return [
        row["name"]
        for row in await connection.fetch(_TABLES)
        if row["has_tenants"] and not (row["row_security"] and row["forced"] and row["policies"])
    ]


def compare(expected: Mapping[str, Table], found: Mapping[str, Table]) -> list[str]:
    """Name each difference in words."""
    differences = [f"{name} is missing" for name in expected if name not in found]
    differences += [f"{name} was not in the backup" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        before, after = expected[name], found[name]
        if before.rows != after.rows:
            differences.append(f"{name} has {after.rows:,} rows, and had {before.rows:,}")
        if (before.row_security, before.forced) != (after.row_security, after.forced):
            differences.append(f"{name}: row-level security is {_walls(after)}, and was {_walls(before)}")
        if before.policies != after.policies:
            differences.append(f"{name} has the policies {after.policies}, and had {before.policies}")
    return sorted(differences)


def digest(archive: Path) -> str:
    """Return the SHA-256 of a file."""
    total = hashlib.sha256()
    with archive.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
    return total.hexdigest()


def _walls(table: Table) -> str:
    if not table.row_security:
        return "off"
    return "forced" if table.forced else "on, and not for the owner"
