"""Draw the packages and their layers in CONTRIBUTING.md as Mermaid, from the import contracts in pyproject.toml.

    python -m scripts.house    # or: make house

The contracts are what `lint-imports` checks, so that the picture cannot differ from the code. A test compares
CONTRIBUTING.md with the contracts.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
_DRAWN = re.compile(r"(?<=<!-- house: drawn by `make house` -->\n).*?(?=<!-- house: end -->)", re.DOTALL)


def main() -> int:
    """Replace the picture in CONTRIBUTING.md."""
    PAGE.write_text(page_with(house()))
    sys.stdout.write(f"{PAGE.name} shows the layers of pyproject.toml\n")
    return 0


def page_with(picture: str) -> str:
    """Return the text of CONTRIBUTING.md with this picture between its two markers."""
    text = PAGE.read_text()
    if not _DRAWN.search(text):
        raise ValueError(f"{PAGE.name} must have the two markers of the picture, `<!-- house: … -->`")
    return _DRAWN.sub(lambda _: picture, text)


def house() -> str:
    """Return the picture: the layers of all packages, then the layers inside each package that has a contract."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    everything, *packages = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    return (
        f"\n```mermaid\nflowchart TD\n{chain('layer', everything)}```\n\n"
        "Inside the packages that have layers of their own:\n\n"
        f"```mermaid\nflowchart LR\n{''.join(map(package, packages))}```\n\n"
    )


def package(layers: list[str]) -> str:
    """Return the subgraph of one package."""
    name = layers[0].partition(" ")[0].split(".")[-2]
    return f"    subgraph {name}\n        direction TB\n{chain(f'{name}_', layers, indent=8)}    end\n"


def chain(prefix: str, layers: list[str], *, indent: int = 4) -> str:
    """Return a line for each layer: a node that lists the layer's modules, with an arrow to the layer below it."""
    lines = []
    for number, layer in enumerate(layers):
        modules = ", ".join(module.rpartition(".")[2] for module in layer.split(" | "))
        arrow = f" --> {prefix}{number + 1}" if number + 1 < len(layers) else ""
        lines.append(f'{" " * indent}{prefix}{number}["{modules}"]{arrow}\n')
    return "".join(lines)


if __name__ == "__main__":
    sys.exit(main())
