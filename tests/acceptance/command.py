"""Runs thea-db as a user does: in a folder of its own, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import URL

ROOT = Path(__file__).parents[2]
CANARY = "c4n4ry-p4ss"


def run(*arguments: str | Path, folder: Path, output: Any = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command with these variables and none of the suite's; what it prints goes to `output`, or is kept."""
    unset = ("DATABASE_", "DB_", "ENVIRONMENT")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", "from src.database.cli import main; main()", *map(str, arguments)],
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **variables},
        stdout=output or subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


def database(url: URL) -> str:
    """Render a URL for a variable."""
    return url.render_as_string(hide_password=False)
