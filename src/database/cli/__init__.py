"""The command thea-db."""

from src.database.cli.app import main

__all__ = ["main"]
