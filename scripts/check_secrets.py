"""Look for secrets in what is to be committed: exit code 1 where there is one that .secrets.baseline does not know.

The tests are left out: they are full of canaries. A false alarm is entered in the baseline by
`detect-secrets scan --baseline .secrets.baseline`, and the change is read.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
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
    """Return 1 if one of these files has a secret that the baseline does not know, else 0; change no file.

    The hook writes the baseline again when lines have moved, with this machine's absolute path in it: the hook gets a
    copy.
    """
    hook = "import sys; from detect_secrets.pre_commit_hook import main; sys.exit(main())"
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(baseline, folder)
        command = [sys.executable, "-c", hook, "--baseline", copy, *names]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    if done.returncode == _ONLY_LINES_MOVED:  # the hook asks for a commit of the copy
        return 0
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
