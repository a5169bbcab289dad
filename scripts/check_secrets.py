"""Search the files of the repository for secrets: exit code 1 if one is not in .secrets.baseline.

The tests are excluded, because they contain canaries. To accept a false alarm, run
`detect-secrets scan --baseline .secrets.baseline` and review the change.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
_ONLY_LINES_MOVED = 3
_EXCLUDED = ("tests/", ".secrets.baseline")


def main() -> int:
    """Search the files that git tracks, and return the exit code."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)  # noqa: S607 - ours
    names = [name for name in listed.stdout.decode().split("\0") if name and not name.startswith(_EXCLUDED)]
    if not names:
        sys.stdout.write("secrets: not checked, there is no git repository\n")
        return 0
    return search(names, baseline=ROOT / ".secrets.baseline")


def search(names: list[str], *, baseline: Path) -> int:
    """Return 1 if one of these files has a secret that is not in the baseline, else 0. No file is changed.

    The hook gets a copy of the baseline: when lines have moved, it rewrites the file, with an absolute path of the
    machine in it.
    """
    hook = "import sys; from detect_secrets.pre_commit_hook import main; sys.exit(main())"
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(baseline, folder)
        command = [sys.executable, "-c", hook, "--baseline", copy, *names]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    if done.returncode == _ONLY_LINES_MOVED:  # the hook has rewritten its copy
        return 0
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
