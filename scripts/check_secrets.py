"""Look for secrets in what is to be committed: exit code 1 where there is one that .secrets.baseline does not know.

The tests are left out: they are full of canaries. A false alarm is entered in the baseline by
`detect-secrets scan --baseline .secrets.baseline`, and the change is read.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
_ONLY_LINES_MOVED = 3
_LEFT_OUT = ("tests/", ".secrets.baseline")


def main() -> int:
    """Look through the files that git knows."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)  # noqa: S607 - ours
    names = [name for name in listed.stdout.decode().split("\0") if name and not name.startswith(_LEFT_OUT)]
    if not names:
        sys.stdout.write("secrets: there is no git repository to look through\n")
        return 0
    return look(names, baseline=ROOT / ".secrets.baseline")


def look(names: list[str], *, baseline: Path) -> int:
    """Say which of these files has a secret that the baseline does not know."""
    hook = "import sys; from detect_secrets.pre_commit_hook import main; sys.exit(main())"
    command = [sys.executable, "-c", hook, "--baseline", str(baseline), *names]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode  # noqa: S603 - our own arguments
    return 0 if code == _ONLY_LINES_MOVED else code


if __name__ == "__main__":
    sys.exit(main())
