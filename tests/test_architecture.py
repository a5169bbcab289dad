"""The house rules that no linter holds: what reads settings, how long a file is, what is not there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "src").rglob("*.py"), ROOT / "migrations" / "env.py"])
MAY_ASK_FOR_SETTINGS = {
    "migrations/env.py",
    "src/config/__init__.py",
    "src/config/environment.py",
    "src/config/settings.py",
    "src/database/cli/app.py",
    "src/database/cli/schema/migrations.py",
    "src/database/cli/schema/drift.py",
    "src/database/cli/schema/service.py",
    "src/database/cli/seed/commands.py",
    "src/database/health/readiness.py",
    "src/database/session.py",
}


def test_src_is_a_namespace() -> None:
    assert not (ROOT / "src" / "__init__.py").exists()


def test_only_a_few_places_ask_for_the_settings() -> None:
    # Not the method of this name that the driver's connections have.
    ours = re.compile(r"(?<![\w.])(?:config\.)?get_settings\b(?!\(self)")
    asking = {str(path.relative_to(ROOT)) for path in SOURCES if ours.search(path.read_text())}

    assert asking == MAY_ASK_FOR_SETTINGS


def test_no_file_is_over_600_lines() -> None:
    tests = (ROOT / "tests").rglob("*.py")
    long = {str(path.relative_to(ROOT)) for path in [*SOURCES, *tests] if len(path.read_text().splitlines()) > 600}

    assert long == set()


def test_every_module_says_its_job() -> None:
    silent = [str(path.relative_to(ROOT)) for path in SOURCES if not path.read_text().startswith('"""')]

    assert silent == []


def test_there_is_no_room_for_odds_and_ends() -> None:
    assert not {path.stem for path in SOURCES} & {"utils", "helpers", "common", "manager"}


def test_rules_are_expanded_without_the_library_that_the_tests_bring() -> None:
    """The package does not depend on dateutil: only `recurring-ical-events` brings it here."""
    library = re.compile(r"^\s*(from|import) dateutil\b", re.MULTILINE)

    assert [path.name for path in SOURCES if library.search(path.read_text())] == []
