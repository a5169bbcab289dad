"""The snapshots: the catalogs that the migrations of this release and of a service build, as files beside them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final

from src.database.drift.catalog import Catalog
from src.database.errors import ConfigurationError
from src.database.migrate import History

SNAPSHOT_FILE: Final = Path(__file__).with_name("snapshot.json")
UPDATE_SNAPSHOT: Final = "thea-db check --update-snapshot"


@cache
def load_snapshot() -> Catalog:
    """Load the catalog of this package's history from its snapshot file.

    Raises:
        ConfigurationError: The file is not in this installation.
    """
    try:
        return _load(SNAPSHOT_FILE)
    except OSError as error:
        raise ConfigurationError(
            "the snapshot of the schema is not in this installation", hint="reinstall thea-database"
        ) from error


def service_snapshot_file(service: History) -> Path:
    """Return the path of a service's snapshot file, which is beside the folder of its revisions."""
    return service.folders[0].with_name("snapshot.json")


def load_service_snapshot(service: History) -> Catalog | None:
    """Load the objects of a service's history from its snapshot file; None if the service has none.

    Raises:
        ConfigurationError: The file is not a snapshot.
    """
    file = service_snapshot_file(service)
    try:
        return _load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{file} must be a snapshot of the schema: {type(error).__name__}", hint=UPDATE_SNAPSHOT
        ) from error


def only_of_service(built: Catalog, service: History) -> Catalog:
    """Return the objects that a service's history adds to those of this package's snapshot.

    Args:
        built: The catalog that both histories build.
        service: The history of the service.
    """
    package, held = load_snapshot(), service.version_table
    objects = {
        kind: {
            name: facts
            for name, facts in of.items()
            if name not in package.of(kind) and held not in {name, facts.get("table")} and name != f"TABLE {held}"
        }
        for kind, of in built.built().items()
    }
    return replace(built, objects=objects, revisions=built.service_revisions)


def united(package: Catalog, service: Catalog | None) -> Catalog:
    """Return the catalog with the objects of both histories."""
    if service is None:
        return package
    kinds = dict.fromkeys([*package.objects, *service.objects])
    return replace(package, objects={kind: {**package.of(kind), **service.of(kind)} for kind in kinds})


def _load(file: Path) -> Catalog:
    document = json.loads(file.read_text(encoding="utf-8"))
    return Catalog(objects=document["objects"], server_major=document["server"], revisions=tuple(document["revisions"]))


def render_snapshot(catalog: Catalog) -> str:
    """Return the text of the snapshot file: the objects that the migrations built, one object a line."""
    kinds = []
    for kind, objects in catalog.built().items():
        lines = [f"{_dump(name)}: {_dump(facts)}" for name, facts in objects.items()]
        kinds.append(f"{_dump(kind)}: {{\n" + ",\n".join(lines) + "\n}")
    head = f'"server": {catalog.server_major},\n"revisions": {_dump(catalog.revisions)}'
    return f'{{\n{head},\n"objects": {{\n' + ",\n".join(kinds) + "\n}\n}\n"


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
