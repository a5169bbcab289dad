"""The contender in JavaScript: Node runs it, npm installs its packages."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

__all__ = ["NotInstalledError", "node_command"]

PACKAGES: Final = ("drizzle-orm@0.45", "postgres@3.4")
FOLDER: Final = Path(".cache/benchmarks/node")
INSTALL_SECONDS: Final = 180


class NotInstalledError(Exception):
    """A contender cannot take part: what it needs is missing."""


def node_command(script: str) -> list[str]:
    """Return the command that runs a script of this folder; install its packages first.

    Raises:
        NotInstalledError: Node is missing, or npm cannot install the packages.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise NotInstalledError("there is no Node with npm")
    folder = FOLDER.resolve()
    if not (folder / "node_modules" / "drizzle-orm").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}')
        try:
            subprocess.run(  # noqa: S603 - fixed names
                [npm, "install", "--silent", "--no-audit", "--no-fund", *PACKAGES],
                cwd=folder,
                check=True,
                capture_output=True,
                timeout=INSTALL_SECONDS,
            )
        except (subprocess.SubprocessError, OSError) as error:
            raise NotInstalledError(f"npm could not install {', '.join(PACKAGES)}: {type(error).__name__}") from error
    return [node, str(Path(__file__).with_name(script)), str(folder)]
