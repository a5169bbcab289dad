"""Does the cost of a read grow with the table? `recent` and a page deep in a conversation, at three sizes.

`python -m benchmarks.growth`: the sizes take turns within each round, and each round's times are compared with its own
first size; printed is the median of those ratios.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Final
from uuid import UUID

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.large import fill
from benchmarks.server import BenchmarkServer, running_server
from src.database import create_engine
from src.database.binding import TenantBinding
from src.database.engine import DatabaseEngine
from src.database.repositories import MessageHistoryRepository
from src.database.tenancy import AsyncSession

SIZES: Final = (10_000, 100_000, 1_000_000)
MESSAGES_A_CONVERSATION: Final = 5_000
ROUNDS: Final = 60
CALLS_A_ROUND: Final = 20
TENANT: Final = UUID("01900000-0000-7000-8000-000000000000")

Read = Callable[[MessageHistoryRepository, UUID], Awaitable[object]]
READS: Final[dict[str, Read]] = {
    "recent, 50 messages": lambda messages, talk: messages.recent(talk, limit=50),
    "a page of 50 in the middle": lambda messages, talk: messages.before(talk, MESSAGES_A_CONVERSATION // 2, limit=50),
}


def main() -> None:
    """Fill, measure, print."""
    console = Console()
    with running_server() as server:
        for size in track(SIZES, "Filling", console=console):
            with server.create(f"messages_{size}") as connection:
                fill(
                    connection,
                    tenants=1,
                    users=max(1, size // MESSAGES_A_CONVERSATION // 2),
                    messages=size,
                    events=100,
                    notes=100,
                )
        console.print(asyncio.run(_measure(server)))


async def _measure(server: BenchmarkServer) -> Table:
    engines = {size: create_engine(server.settings(f"messages_{size}")) for size in SIZES}
    talks = {size: _conversations(server, size) for size in SIZES}
    table = Table("read", *(f"{size:,} messages" for size in SIZES), title="milliseconds, and the ratio to the first")
    for name, read in READS.items():
        rounds = [
            {size: await _time(engines[size], talks[size], read) for size in random.sample(SIZES, len(SIZES))}
            for _ in range(ROUNDS)
        ]
        table.add_row(
            name,
            *(
                f"{1000 * median(one[size] for one in rounds):.2f}"
                f" ({median(one[size] / one[SIZES[0]] for one in rounds):.2f})"
                for size in SIZES
            ),
        )
    for engine in engines.values():
        await engine.dispose()
    return table


def _conversations(server: BenchmarkServer, size: int) -> list[UUID]:
    with server.superuser(f"messages_{size}") as connection:
        return [row[0] for row in connection.execute("SELECT id FROM conversations").fetchall()]


async def _time(engine: DatabaseEngine, talks: list[UUID], read: Read) -> float:
    """Return seconds a call, each in a session of its own and in any conversation."""
    chosen = [random.choice(talks) for _ in range(CALLS_A_ROUND)]
    began = time.perf_counter()
    for talk in chosen:
        async with AsyncSession(engine, binding=TenantBinding(TENANT)) as session:
            await read(MessageHistoryRepository(session), talk)
    return (time.perf_counter() - began) / CALLS_A_ROUND


if __name__ == "__main__":
    main()
