"""thea-db seed: generated data in quantity, the same rows for the same options."""

from src.database.cli.seed.commands import seed_app

__all__ = ["seed_app"]
