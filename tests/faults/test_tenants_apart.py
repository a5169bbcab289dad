"""Three tenants on one connection, every public path in any order, faults in between: nobody sees another's row."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import psycopg
import pytest
from sqlalchemy import URL

from src.config import Settings
from src.database.errors import DatabaseError
from tests.faults.tenants_steps import FAULTS, STEPS, Planned, Walker, undisturbed
from tests.faults.three_tenants import World, living

GIVEN_BACK_SECONDS = 15.0
LIFE = 40
"""After so many steps all begins again: a tenant who has erased everything has nothing to hand out."""


@pytest.fixture
def steps(is_long: bool) -> int:
    return 20_000 if is_long else 120


async def settled(world: World) -> None:
    """Wait until the server has ended what a cancelled caller left to it, and every connection is back."""
    try:
        async with asyncio.timeout(GIVEN_BACK_SECONDS):
            while world.in_use() or world.is_busy():  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise AssertionError(f"{world.in_use()} connections were never given back") from None


async def walk(walker: Walker, steps: int) -> Counter[str]:
    """Go so many steps; return how many of each kind there were, and what ended some of them."""
    done: Counter[str] = Counter()
    world = walker.world
    for number in range(steps):
        if number % LIFE == 0:
            await settled(world)
            await world.refill()
        name, acting, run = walker.step()
        fault = walker.dice.choice(FAULTS)
        beside = walker.step() if walker.dice.random() < 0.15 else None
        others = world.others(acting, *([beside[1]] if beside else []))
        before = world.state_of(others)
        tasks = [fault(walker, run), *([undisturbed(walker, beside[2])] if beside else [])]
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, BaseException):
                if not isinstance(ended, DatabaseError | Planned | ValueError):
                    raise ended
                done[type(ended).__name__] += 1
        try:
            await settled(world)
        except AssertionError as error:
            error.add_note(f"after {name}, {fault.__name__}" + (f", beside {beside[0]}" if beside else ""))
            raise
        assert world.state_of(others) == before, f"{acting} has changed rows of {others} by {name}"
        done[name] += 1
        done[fault.__name__] += 1
    return done


async def test_no_tenant_is_handed_or_changes_anothers_row(
    cloned_database: URL,
    superuser: psycopg.Connection,
    use_database: Callable[..., Settings],
    steps: int,
) -> None:
    """Some hundred steps; 20,000 with `--long`."""
    seed = random.SystemRandom().getrandbits(32)
    async with living(cloned_database, superuser, use_database) as world:
        try:
            done = await walk(Walker(world, random.Random(seed)), steps)  # noqa: S311 - guards nothing
        except BaseException as error:
            error.add_note(f"the walk's seed was {seed}; what is cancelled when depends on the clock too")
            raise

    print(f"seed {seed}: {dict(done)}")  # noqa: T201 - the figures of the long form
    assert set(done) >= set(STEPS), "every path was gone"
