"""The start of the command thea-db."""

import os
import sys


def main() -> None:
    """Run the command; modules of the working folder can be imported, such as the models and migrations of a service.

    A console script has its own folder in sys.path, and not the working folder. The working folder comes last, so that
    its modules hide no installed ones. It has to be there before `src` is imported: the service's own `src` can be a
    regular package.
    """
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109 - pathlib would be imported before the path is complete
        sys.path.append(here)
    from thea_database.cli import main as run  # noqa: PLC0415 - after the change of the path

    run()
