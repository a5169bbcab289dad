"""thea-db demo: import a Telegram file through the repositories, and print the queries of an assistant."""

from src.database.cli.demo.run import run_demo

__all__ = ["run_demo"]
