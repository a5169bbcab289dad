"""The worker: sends the due reminders of all tenants, and ends the answers whose writer has gone."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from uuid import UUID

from thea_database import engine, get_db, get_read_db, tenant_context
from thea_database.repositories import EventRepository, MessageHistoryRepository, TenantRepository
from thea_database.store import EventRow, get_store

Send = Callable[[EventRow], Awaitable[None]]
PAUSE = 10.0
LONGEST_PAUSE_OF_THE_MODEL = timedelta(minutes=2)


async def work_once(send: Send) -> None:
    """Do what is due, for each active tenant."""
    async for tenant_id in active_tenants():
        with tenant_context(tenant_id):
            await send_reminders(send)
            async with get_db() as session:
                await MessageHistoryRepository(session).interrupt_stale(older_than=LONGEST_PAUSE_OF_THE_MODEL)


async def active_tenants() -> AsyncIterator[UUID]:
    """Yield the ids of the active tenants."""
    async with get_read_db() as session:
        async for tenant in TenantRepository(session).active():
            yield tenant.id


async def send_reminders(send: Send) -> None:
    """Send the due reminders. If `send` fails, the reminder is due again when its lease ends."""
    for event in await get_store().claim_due_reminders("worker"):
        await send(event)  # no transaction is open here
        async with get_db() as session:
            await EventRepository(session).ack_reminder(event.id, event.reminder_token)


async def print_reminder(event: EventRow) -> None:
    """Print a reminder; a service sends a message here."""
    print("reminder of the event", event.id)


async def main() -> None:
    """Run until the process is stopped."""
    try:
        while True:
            await work_once(print_reminder)
            await asyncio.sleep(PAUSE)
    finally:
        await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
