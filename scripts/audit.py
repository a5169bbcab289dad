"""Check the installed packages for known vulnerabilities: exit code 1 if there is one.

The arguments are the folders of the packages (site-packages); without arguments, those of this environment are checked.
pip-audit also succeeds if the index has no advisories at all, as a mirror. This script reports that case.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

OURS = "thea-database"


def main(folders: Sequence[str]) -> int:
    """Run pip-audit, print the result, and return the exit code."""
    command = [sys.executable, "-m", "pip_audit", "--format=json", "--progress-spinner=off", "--timeout=15"]
    command += [f"--path={folder}" for folder in folders]
    audit = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
    code, result = judge(audit.stdout)
    sys.stdout.write(f"pip-audit: {result}\n")
    return code


def judge(output: str) -> tuple[int, str]:
    """Return the exit code for the JSON output of pip-audit, and a text for people."""
    try:
        packages: list[dict[str, Any]] = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return 0, "NOT CHECKED: the advisory service cannot be reached"
    known = [package for package in packages if "vulns" in package]
    faults = [
        f"{package['name']} {package['version']}: {fault['id']}, fixed in {', '.join(fault['fix_versions']) or 'none'}"
        for package in known
        for fault in package["vulns"]
    ]
    if faults:
        return 1, "\n  ".join([f"{len(faults)} known vulnerabilities", *faults])
    if not known:
        return 0, f"NOT CHECKED: the advisory service has data on none of {len(packages)} packages"
    unknown = [package["name"] for package in packages if "vulns" not in package and package["name"] != OURS]
    without_data = f"; without data: {', '.join(unknown)}" if unknown else ""
    return 0, f"no known vulnerability in {len(known)} packages{without_data}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
