"""thea-db erd: the diagram is valid Mermaid, shows all models, and equals the one in the documentation."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Column, ForeignKey, ForeignKeyConstraint, Integer, MetaData, Table, Text, UniqueConstraint
from typer.testing import CliRunner

from src.database.base import Base
from src.database.cli.diagram import diagram_app
from src.database.cli.mermaid import mermaid
from src.database.errors import ConfigurationError

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "schema.md"
# The grammar of erDiagram: https://mermaid.js.org/syntax/entityRelationshipDiagram.html
COLUMN = re.compile(r'        [a-z][a-z0-9_()\[\]-]* [a-z][a-z0-9_]*( (PK|FK|UK)(, (FK|UK))*)?( "[a-z, ]+")?')
RELATION = re.compile(r'    [a-z_]+ (\|o|\|\|)(--|\.\.)(o\||o\{) [a-z_]+ : "[a-z_, ]+"')


def test_the_documentation_has_the_current_diagram() -> None:
    assert f"```mermaid\n{mermaid()}```\n" in PAGE.read_text(), "run `thea-db erd docs/schema.md`"


@pytest.mark.slow
def test_a_new_process_prints_the_same_tables() -> None:
    """In this process other tests have imported the models; the command must import them itself."""
    program = "from src.database.cli import main; main()"

    done = subprocess.run([sys.executable, "-c", program, "erd"], cwd=ROOT, check=True, capture_output=True, text=True)

    assert done.stdout == mermaid()


def test_every_line_is_valid_mermaid() -> None:
    first, *lines = mermaid().splitlines()

    assert first == "erDiagram"
    for line in lines:
        assert re.fullmatch(r"    ([a-z_]+ \{|\})", line) or COLUMN.fullmatch(line) or RELATION.fullmatch(line), line


def test_every_table_column_and_foreign_key_occurs_once() -> None:
    lines = mermaid().splitlines()

    for table in Base.metadata.sorted_tables:
        start = lines.index(f"    {table.name} {{")
        columns = lines[start + 1 : lines.index("    }", start)]
        assert [line.split()[1] for line in columns] == [column.name for column in table.columns]
    references = sum(len(table.foreign_key_constraints) for table in Base.metadata.sorted_tables)
    assert sum(bool(RELATION.fullmatch(line)) for line in lines) == references


@pytest.mark.parametrize(
    "line",
    [
        "        uuid conversation_id FK, UK",
        "        text[] tags",
        "        timestamptz[] exdates",
        '        timestamp start_local "generated"',
        '        text username_lower "null, generated"',
        "        uuid tenant_id PK, FK",
        '    tenants ||--o{ users : "tenant_id"',
        '    users ||..o{ notes : "user_id"',
        '    message_history |o..o{ message_history : "parent_id"',
    ],
)
def test_keys_and_remarks_are_drawn_as_the_models_have_them(line: str) -> None:
    assert line in mermaid().splitlines()


def test_one_to_one_is_distinguished_from_one_to_many() -> None:
    metadata = MetaData()
    Table("a", metadata, Column("id", Integer, primary_key=True), Column("x", Text, unique=True))
    Table("b", metadata, Column("id", Integer, ForeignKey("a.id"), primary_key=True))
    Table(
        "c",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("a_id", Integer),
        ForeignKeyConstraint(["a_id"], ["a.id"]),
        UniqueConstraint("a_id"),
    )

    lines = [line.strip() for line in mermaid(metadata).splitlines()]

    assert {'a ||--o| b : "id"', 'a |o..o| c : "a_id"', "integer id PK, FK", 'text x UK "null"'} <= set(lines)


def test_an_existing_page_keeps_the_text_around_its_diagram(tmp_path: Path) -> None:
    page, bare, new = tmp_path / "page.md", tmp_path / "schema.mmd", tmp_path / "new.md"
    page.write_text("# Título\n\n```mermaid\nerDiagram\n    old {\n    }\n```\n\nBelow.\n\n```mermaid\ngraph TD\n```\n")
    for file in (page, page, bare, new):
        assert CliRunner().invoke(diagram_app, [str(file)]).exit_code == 0

    assert page.read_text() == f"# Título\n\n```mermaid\n{mermaid()}```\n\nBelow.\n\n```mermaid\ngraph TD\n```\n"
    assert bare.read_text() == CliRunner().invoke(diagram_app).stdout == mermaid()
    assert f"```mermaid\n{mermaid()}```\n" in new.read_text()


@pytest.mark.parametrize("text", ["# Nothing\n", "```mermaid\ngraph TD\n```\n", "```\nerDiagram\n```\n"])
def test_a_page_without_a_diagram_is_not_overwritten(tmp_path: Path, text: str) -> None:
    page = tmp_path / "README.md"
    page.write_text(text)

    done = CliRunner().invoke(diagram_app, [str(page)])

    assert isinstance(done.exception, ConfigurationError)
    assert "has no ```mermaid block" in str(done.exception)
    assert page.read_text() == text


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    done = CliRunner().invoke(diagram_app, [str(tmp_path / "missing" / "schema.mmd")])

    assert isinstance(done.exception, ConfigurationError)
    assert "cannot be written: No such file or directory" in str(done.exception)
