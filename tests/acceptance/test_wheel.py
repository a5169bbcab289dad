"""The built wheel in another folder: imports, migrations, types, beside a service's own `src`."""

from __future__ import annotations

import re
import sys
import zipfile
from configparser import ConfigParser
from importlib.metadata import EntryPoint
from pathlib import Path
from textwrap import dedent

import psycopg
import pytest
from sqlalchemy import make_url

from src.database.embedded import SUPERUSER
from src.database.migrate import heads
from tests.acceptance.test_add_a_table import words, write
from tests.conftest import SOCKETS, url_of
from tests.wheels import build, install, run
from thea_database.command import main

ROOT = Path(__file__).parents[2]

SERVICE = '''
"""A service that has a `src` of its own."""
import asyncio

from src.agents import greeter
from src.config import get_logger, get_settings
from src.database import engine, get_db
from src.database.models import Conversation, Event, MessageHistory, Note, User
from src.database.repositories import (
    ConversationRepository,
    EventRepository,
    MessageHistoryRepository,
    NoteRepository,
    UserRepository,
)


async def main() -> None:
    async with get_db() as session:
        user, created = await UserRepository(session).get_or_create_by_telegram_id(1)
        print(greeter.greet(user.telegram_id or 0), created, await NoteRepository(session).count())


asyncio.run(main())
'''


COMMANDS = """
from src.database.cli.app import app
from src.database.errors import ConfigurationError


def run(*arguments):
    print("$", *arguments, flush=True)
    try:
        code = app(arguments, standalone_mode=False)
    except ConfigurationError as error:
        print("refused:", error)
    else:
        print("code:", code or 0)


run("current", "--check-heads")
run("upgrade", "--json")
run("current", "--check-heads")
run("history", "--indicate-current")
run("sql")
run("upgrade", "base")
run("revision", "-m", "for nobody")
run("stamp", "head", "--json")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(wheel, tmp_path_factory.mktemp("venv"))


@pytest.fixture
def service(tmp_path: Path) -> Path:
    (tmp_path / "src" / "agents").mkdir(parents=True)
    (tmp_path / "src" / "agents" / "greeter.py").write_text(
        'def greet(number: int) -> str:\n    return f"hello {number}"\n'
    )
    (tmp_path / "service.py").write_text(SERVICE)
    return tmp_path


def test_contains_only_the_needed_files(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())

    assert "src/__init__.py" not in names
    assert {
        "src/config/py.typed",
        "thea_database/py.typed",
        "src/database/py.typed",
        "src/database/_packaged/alembic.ini",
        "src/database/_packaged/migrations/env.py",
        "src/database/_packaged/migrations/script.py.mako",
        "src/database/cli/demo/sample.jsonl",
        "src/database/cli/demo/NOTICE",
        "src/database/drift/snapshot.json",
    } <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"src", "thea_database"}
    assert not [name for name in names if "__pycache__" in name]


def test_has_the_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    declared = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
    scripts = ConfigParser()
    scripts.read_string(archive.read(declared).decode())

    assert EntryPoint("thea-db", scripts["console_scripts"]["thea-db"], "console_scripts").load() is main


@pytest.mark.slow
def test_migrates_and_serves_beside_a_services_own_src(python: Path, service: Path, empty_database: str) -> None:
    variables = {"DATABASE_URL": empty_database, "ENVIRONMENT": "test"}
    printed = run(python, "-c", COMMANDS, folder=service, **variables)
    (_, before), (_, upgraded), (_, after), (_, history), (_, sql), *rest = output_of_each(printed)
    base, rejected, stamped = [output for _, output in rest]
    served = run(python, "service.py", folder=service, **variables)

    head = heads()[0]
    assert before == f"no revision is recorded; the newest is {head}\ncode: 1\n"
    assert f'"after": ["{head}"]' in upgraded
    assert after == f"{head} (head)\ncode: 0\n"
    assert history.count("applied)") == len(history.splitlines()) - 1
    assert sql.count("-- Running upgrade") == history.count("applied)")
    assert "no downgrade is necessary" in base
    assert "refused: a new migration of thea-database must be in a checkout" in rejected
    assert "DATABASE_SERVICE_MIGRATIONS" in rejected
    assert '"steps": []' in stamped
    assert served == "hello 1 True 0\n"


def output_of_each(printed: str) -> list[tuple[str, str]]:
    """Return the output of each of a list of commands."""
    parts = [part.partition("\n") for part in printed.removeprefix("$ ").split("\n$ ")]
    return [(command, output if output.endswith("\n") else f"{output}\n") for command, _, output in parts]


@pytest.mark.slow
def test_mypy_strict_resolves_it_from_the_wheel_and_from_an_editable_install(python: Path, service: Path) -> None:
    (service / "probe.py").write_text("from src.database import get_db\nreveal_type(get_db)\n")

    for interpreter in (python, Path(sys.executable)):
        printed = run(
            *(sys.executable, "-m", "mypy", "--strict", "--python-executable", interpreter),
            *("--namespace-packages", "--explicit-package-bases", "--cache-dir", ROOT / ".mypy_cache" / "service"),
            *("service.py", "probe.py"),
            folder=service,
            MYPYPATH=str(service),
        )

        assert "SessionScope" in printed
        assert "Success" in printed


@pytest.mark.slow
def test_thea_database_serves_a_service_whose_src_is_a_regular_package(
    python: Path, service: Path, empty_database: str
) -> None:
    (service / "src" / "__init__.py").touch()
    renamed = SERVICE.replace("src.database", "thea_database").replace("src.config", "thea_database.config")
    (service / "service.py").write_text(renamed)
    variables = {"DATABASE_URL": empty_database, "ENVIRONMENT": "test", "PYTHONPATH": str(service)}

    run(python, "-c", "from thea_database.cli import main; main()", "upgrade", folder=service, **variables)
    served = run(python, "service.py", folder=service, **variables)
    checked = run(
        *(sys.executable, "-m", "mypy", "--strict", "--python-executable", python),
        *("--cache-dir", ROOT / ".mypy_cache" / "service", "service.py"),
        folder=service,
    )

    assert served == "hello 1 True 0\n"
    assert "Success" in checked


PAGE = ROOT / "docs" / "services.md"
BLOCK = re.compile(r"^ *```(ini|python|console)\n(.*?)^ *```\n", re.MULTILINE | re.DOTALL)
THEA_DB = "import sys; from src.database.cli import main; sys.exit(main())"
ORDERS = """
import asyncio

from orders.models import Order
from src.database import get_db, tenant_context
from src.database.models import User
from src.database.repositories import TenantRepository, UserRepository


async def main():
    async with get_db() as session:
        acme = await TenantRepository(session).get_by_slug("acme")
    with tenant_context(acme.id):
        async with get_db() as session:
            user = await UserRepository(session).add(User(display_name="Ada"))
            session.add(Order(user_id=user.id, title="a lamp"))
            former = await UserRepository(session).add(User(display_name="Grace"))
            session.add(Order(user_id=former.id, title="a desk"))
            await session.flush()
            tables = [row["table"] async for row in UserRepository(session).export(former.id)]
            print("orders" in tables, (await UserRepository(session).erase(former.id))["orders"])


asyncio.run(main())
"""


@pytest.mark.slow
def test_the_page_on_tables_of_a_service_works_from_the_wheel(
    python: Path, tmp_path: Path, empty_database: str
) -> None:
    as_superuser = url_of("postgres", SUPERUSER).render_as_string()

    def thea_db(arguments: str, **variables: str) -> str:
        # -P: a console script has its own folder in sys.path, and not the working folder.
        environment = {"ENVIRONMENT": "test", "DATABASE_URL": empty_database, **variables}
        return run(python, "-P", "-c", THEA_DB, *words(arguments), folder=tmp_path, **environment)

    for language, block in BLOCK.findall(PAGE.read_text()):
        text = dedent(block)
        if language != "console" and text.startswith("# "):
            (tmp_path / "orders").mkdir(exist_ok=True)
            write(tmp_path, text)
        for command in text.splitlines() if language == "console" else ():
            program, _, arguments = command.partition(" ")
            if program == "thea-db":
                thea_db(arguments, DATABASE_URL=as_superuser if "check" in arguments else empty_database)
            else:
                programs: dict[str, list[str | Path]] = {"alembic": [python, "-m", "alembic"], "mkdir": ["mkdir"]}
                run(*programs[program], *words(arguments), folder=tmp_path, DATABASE_URL=empty_database)

    thea_db("tenant create acme Acme")
    of_user = run(python, "-c", ORDERS, folder=tmp_path, DATABASE_URL=empty_database)
    exported = thea_db("tenant export acme")
    as_administrator = make_url(empty_database).set(username=SUPERUSER).render_as_string()
    thea_db("backup all.dump --verify", DATABASE_BACKUP_URL=as_administrator, DATABASE_ADMIN_URL=as_administrator)
    erased = thea_db("tenant erase acme --yes")
    with psycopg.connect(host=SOCKETS, user=SUPERUSER, dbname=make_url(empty_database).database) as connection:
        connection.execute("ALTER TABLE orders NO FORCE ROW LEVEL SECURITY")

    assert of_user == "True 1\n"
    assert "a lamp" in exported
    assert "a desk" not in exported
    assert '"public.orders"' in (tmp_path / "all.dump.json").read_text()
    assert "orders" in erased
    with pytest.raises(AssertionError, match="orders: forced row-level security must be true"):
        thea_db("verify")
    with pytest.raises(AssertionError, match="row-level security is not forced on orders"):
        thea_db("health")
