"""thea-db seed: made-up data in quantity, the same each time."""

from src.database.cli.seed.commands import seed_app

__all__ = ["seed_app"]
