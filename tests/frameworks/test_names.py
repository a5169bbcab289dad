"""The integrations under the name `thea_database`."""

from __future__ import annotations

from scripts.aliases import aliases
from tests.thea_database.test_names import assert_same_objects


def test_the_integrations_are_those_of_src_database() -> None:
    integrations = [path for path in aliases() if path.parent.name == "integrations"]

    assert {"aiogram", "fastapi", "litestar", "tenants"} <= {path.stem for path in integrations}
    for path in integrations:
        assert_same_objects(path)
