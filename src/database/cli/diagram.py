"""thea-db erd: the schema's diagram, printed or kept up to date in a document."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final

import typer

from src.database.errors import ConfigurationError

# A fence may be indented by three spaces, and is closed by one that is at least as long.
_BLOCK: Final = re.compile(r"^( {0,3}```+)mermaid[^\n]*\n(?: {0,3})erDiagram.*?^\1`*[ ]*$", re.MULTILINE | re.DOTALL)
_PAGE: Final = "# The schema\n\nMade by `thea-db erd` from the models.\n\n{block}\n"

diagram_app = typer.Typer(pretty_exceptions_show_locals=False)


@diagram_app.command()
def erd(
    file: Annotated[
        Path | None,
        typer.Argument(
            dir_okay=False, help="The file to write; a name that ends in .md is a Markdown page. By default, print it."
        ),
    ] = None,
) -> None:
    """Draw the tables as a Mermaid diagram; in an existing page, only the diagram is replaced."""
    from src.database.cli.mermaid import mermaid

    diagram = mermaid()
    if file is None:
        typer.echo(diagram, nl=False)
        return
    try:
        file.write_text(_page(file, diagram) if file.suffix == ".md" else diagram, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}") from None
    typer.echo(f"the diagram is in {file}")


def _page(file: Path, diagram: str) -> str:
    """Return a page with the diagram; in an existing page, the text around the diagram is kept.

    Raises:
        ConfigurationError: The page exists and has no diagram of tables.
    """
    block = f"```mermaid\n{diagram}```"
    if not file.exists():
        return _PAGE.format(block=block)
    text = file.read_text(encoding="utf-8")
    if not _BLOCK.search(text):
        raise ConfigurationError(
            f"{file} is there and has no ```mermaid block that begins with erDiagram, so that nothing was replaced",
            hint="put one where the diagram is to be, or name another file",
        )
    return _BLOCK.sub(lambda _: block, text, count=1)
