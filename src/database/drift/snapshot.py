"""The snapshot: the catalog that this release's migrations build, as a file of the release."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Final

from src.database.drift.catalog import Catalog
from src.database.errors import ConfigurationError

SNAPSHOT_FILE: Final = Path(__file__).with_name("snapshot.json")


@cache
def load_snapshot() -> Catalog:
    """Load the catalog from the snapshot file.

    Raises:
        ConfigurationError: The file is not in this installation.
    """
    try:
        document = json.loads(SNAPSHOT_FILE.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            "the snapshot of the schema is not in this installation", hint="reinstall thea-database"
        ) from error
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
