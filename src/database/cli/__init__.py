"""thea-db, the command."""

from src.database.cli.app import main

__all__ = ["main"]
