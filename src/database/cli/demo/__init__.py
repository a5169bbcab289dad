"""The demonstration: a Telegram file goes in through the repositories, and tables come out."""

from src.database.cli.demo.run import run_demo

__all__ = ["run_demo"]
