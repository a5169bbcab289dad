"""Makes `src.database` and `src.config` importable beside a service's own `src`, when this module is imported."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from thea_database import _PACKAGES, _finder


def _locate() -> None:
    """Set the folder of the finder, and check that our packages are found: modules of the service take precedence.

    Raises:
        ImportError: The service has a module `src`, `src.config` or `src.database` of its own.
    """
    root = Path(__file__).parents[1]
    _finder.folder = str(root / "src")  # first: the service's `src/__init__.py` may import thea_database
    for package in _PACKAGES:
        expected = root.joinpath(*package.split("."), "__init__.py")
        try:
            origin = getattr(find_spec(package), "origin", None)
        except ModuleNotFoundError as error:  # `src` is a module, and has no path
            raise ImportError(f"src must be a package, got a module: {error}", name="src") from error
        if origin is None or not Path(origin).exists() or not expected.samefile(origin):
            raise ImportError(
                f"{package} must be the package of thea-database in {expected.parent}, got {origin}:"
                f" rename {package} of the service, since thea-database imports its own by this name",
                name=package,
            )


_locate()
