"""Every repository compared with a model in plain Python, with two tenants, after every step."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import URL

from tests.acceptance.model.machine import Machine
from tests.acceptance.model.world import World


@pytest.mark.slow
def test_the_repositories_match_the_model(
    cloned_database: URL, superuser: psycopg.Connection, *, is_long: bool
) -> None:
    """About 400 steps; 20,000 with `--long`."""
    with asyncio.Runner() as runner:
        Machine.world = World(runner, cloned_database, superuser)
        try:
            run_state_machine_as_test(
                Machine,
                settings=settings(
                    max_examples=400 if is_long else 8,
                    stateful_step_count=50,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            Machine.world.close()
