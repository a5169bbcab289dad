"""The canary: a block that uses a private name of a dependency, and whose failure names the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version


@contextmanager
def canary(package: str, name: str, *, used_in: str, remedy: str) -> Iterator[None]:
    """Run a block that uses a private name as the package does.

    Args:
        package: The distribution that the name is of.
        name: The private name.
        used_in: The file that uses the name.
        remedy: What works without the name.

    Raises:
        AssertionError: The block failed.
    """
    try:
        yield
    except Exception as error:
        message = f"{package} {version(package)} changed `{name}`, which {used_in} uses; {remedy}"
        raise AssertionError(message) from error
