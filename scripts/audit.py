"""Ask whether anything that is installed has a known vulnerability: exit code 1 if so, and a plain word if nobody says.

pip-audit ends well where an index knows none of the packages, as a mirror does: that is no answer, and is said.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

OURS = "thea-database"


def main() -> int:
    """Ask; print what was found."""
    command = [sys.executable, "-m", "pip_audit", "--format=json", "--progress-spinner=off", "--timeout=15"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
    code, said = judge(asked.stdout)
    sys.stdout.write(f"pip-audit: {said}\n")
    return code


def judge(answer: str) -> tuple[int, str]:
    """Return the exit code for an answer, and what to say of it."""
    try:
        packages: list[dict[str, Any]] = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return 0, "the advisory service COULD NOT BE ASKED: nothing is known of what is installed"
    known = [package for package in packages if "vulns" in package]
    faults = [
        f"{package['name']} {package['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'none'}"
        for package in known
        for fault in package["vulns"]
    ]
    if faults:
        return 1, "\n  ".join([f"{len(faults)} known vulnerabilities", *faults])
    if not known:
        return 0, f"the advisory service COULD NOT BE ASKED: it knows none of {len(packages)} packages"
    unknown = [package["name"] for package in packages if "vulns" not in package and package["name"] != OURS]
    beside = f"; not known there: {', '.join(unknown)}" if unknown else ""
    return 0, f"no known vulnerability in {len(known)} packages{beside}"


if __name__ == "__main__":
    sys.exit(main())
