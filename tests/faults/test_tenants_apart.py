"""A random walk of three tenants on one connection, with faults: no row of another tenant is read or written."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import psycopg
import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database.embedded import APP_ROLE
from src.database.errors import DatabaseError
from tests.faults.tenants_steps import FAULTS, STEPS, Planned, Walker, undisturbed
from tests.faults.three_tenants import World, three_tenants

GIVEN_BACK_SECONDS = 15.0
LIFE = 40
"""The number of steps after which the rows are created again, because steps delete them."""


@pytest.fixture
def steps(is_long: bool) -> int:
    return 10_000 if is_long else 60


async def settled(world: World) -> None:
    """Wait until the server has ended the statements of cancelled calls, and every connection is released."""
    try:
        async with asyncio.timeout(GIVEN_BACK_SECONDS):
            while world.in_use() or world.is_busy():  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise AssertionError(f"{world.in_use()} connections were never given back") from None


async def walk(walker: Walker, steps: int) -> Counter[str]:
    """Run steps; return the number of each kind, and the errors that ended some of them."""
    done: Counter[str] = Counter()
    world = walker.world
    for number in range(steps):
        if number % LIFE == 0:
            await settled(world)
            await world.refill()
        step = walker.step()
        fault = walker.dice.choice(FAULTS)
        beside = walker.step() if walker.dice.random() < 0.15 else None
        others = world.others(*step.involved, *(beside.involved if beside else ()))
        before = world.state_of(others)
        tasks = [fault(walker, step.run), *([undisturbed(walker, beside.run)] if beside else [])]
        what = f"{step.name}, {fault.__name__}" + (f", beside {beside.name}" if beside else "")
        try:
            for ended in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(ended, BaseException):
                    if not isinstance(ended, DatabaseError | Planned | ValueError):
                        raise ended
                    done[type(ended).__name__] += 1
            await settled(world)
            assert world.state_of(others) == before, f"{step.involved} changed rows of {others}"
            assert world.misplaced() == []
        except AssertionError as error:
            error.add_note(f"step {number}: {what}")
            raise
        done.update(one.name for one in (step, beside) if one)
        done[fault.__name__] += 1
    return done


@pytest.mark.slow
@pytest.mark.parametrize("has_default", [False, True], ids=["no default", "a default"])
async def test_no_tenant_reads_or_changes_rows_of_another(
    cloned_database: URL,
    superuser: psycopg.Connection,
    use_database: Callable[..., Settings],
    steps: int,
    *,
    has_default: bool,
) -> None:
    """Several hundred steps; 20,000 with `--long`. The role may create temporary tables, as before `bootstrap`."""
    superuser.execute(f"GRANT TEMPORARY ON DATABASE {cloned_database.database} TO {APP_ROLE}".encode())
    seed = random.SystemRandom().getrandbits(32)
    async with three_tenants(cloned_database, superuser, use_database, has_default=has_default) as world:
        try:
            done = await walk(Walker(world, random.Random(seed)), steps)  # noqa: S311 - not for security
        except BaseException as error:
            error.add_note(f"the walk's seed was {seed}; what is cancelled when depends on the clock too")
            raise

    print(f"seed {seed}: {dict(done)}")  # noqa: T201 - the figures of the long form
    assert set(done) >= set(STEPS), "every path was used"
