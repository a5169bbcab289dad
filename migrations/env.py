"""Alembic's environment: this package connects, locks and runs each migration in a transaction of its own."""

from __future__ import annotations

from src.config import get_settings
from src.database.migrate import run_environment

run_environment(get_settings)
