"""aiogram's storage and isolation over the store: the ideas of aiogram's own tests of storages, and two tenants."""

from __future__ import annotations

import asyncio
import importlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from aiogram.exceptions import DataNotDictLikeError
from aiogram.fsm.state import State, StatesGroup
from aiogram.fsm.storage.base import StorageKey
from aiogram.types import Chat, Message, Update
from aiogram.types import User as Sender

from src.database import get_db, tenant_context
from src.database.errors import StaleDataError
from src.database.integrations.aiogram import StateIsolation, StateStorage
from src.database.models import User
from src.database.repositories import UserRepository
from src.database.store import get_store
from src.database.store.state import LEASES
from tests.frameworks.mocked_bot import MockedBot

KEY = StorageKey(bot_id=42, chat_id=-42, user_id=7)
OTHERS = (
    replace(KEY, bot_id=43),
    replace(KEY, chat_id=-43),
    replace(KEY, user_id=8),
    replace(KEY, thread_id=1),
    replace(KEY, business_connection_id="1"),
    replace(KEY, destiny="other"),
    replace(KEY, destiny="x" * 600),
    replace(KEY, user_id=-42),
)


class Form(StatesGroup):
    name = State()


@pytest.fixture
def storage(tenants: dict[str, UUID]) -> StateStorage:
    return StateStorage(tenants["acme"])


async def test_a_state_is_set_read_and_deleted(storage: StateStorage) -> None:
    assert await storage.get_state(KEY) is None
    for state, stored in ((Form.name, "Form:name"), ("plain", "plain"), (State("x", "Group"), "Group:x"), (None, None)):
        await storage.set_state(KEY, state)
        assert await storage.get_state(KEY) == stored
    await storage.set_state(KEY)
    await storage.close()


async def test_data_are_set_updated_and_deleted(storage: StateStorage) -> None:
    assert await storage.get_data(KEY) == {}
    assert await storage.update_data(KEY, {"a": {"b": ["\0", None]}}) == {"a": {"b": ["\0", None]}}
    assert await storage.update_data(KEY, {"c": 1}) == {"a": {"b": ["\0", None]}, "c": 1}
    assert await storage.update_data(KEY, {"a": 2}) == {"a": 2, "c": 1}
    assert await storage.update_data(KEY, {}) == {"a": 2, "c": 1}
    assert (await storage.get_value(KEY, "c"), await storage.get_value(KEY, "d", 5)) == (1, 5)
    await storage.set_data(KEY, {"foo": "bar"})
    assert await storage.get_data(KEY) == {"foo": "bar"}
    await storage.set_data(KEY, {})
    assert await storage.get_data(KEY) == {}
    assert await storage.get_state(KEY) is None


@pytest.mark.parametrize("data", ["text", [("a", 1)], None, 7])
async def test_data_must_be_a_dict(storage: StateStorage, data: Any) -> None:
    for write in (storage.set_data, storage.update_data):
        with pytest.raises(DataNotDictLikeError, match="data must be a dict, got"):
            await write(KEY, data)


async def test_data_that_are_not_json_are_refused_by_their_path(storage: StateStorage) -> None:
    with pytest.raises(ValueError, match="got datetime at value"):
        await storage.set_data(KEY, {"at": datetime.now(UTC)})


async def test_each_part_of_a_key_makes_another_dialog(storage: StateStorage) -> None:
    for number, key in enumerate((KEY, *OTHERS)):
        await storage.set_state(key, str(number))
        await storage.set_data(key, {"number": number})

    for number, key in enumerate((KEY, *OTHERS)):
        assert await storage.get_state(key) == str(number)
        assert await storage.get_data(key) == {"number": number}


async def test_eight_updates_of_eight_keys_keep_eight(storage: StateStorage) -> None:
    await asyncio.gather(*(storage.update_data(KEY, {str(number): number}) for number in range(8)))

    assert await storage.get_data(KEY) == {str(number): number for number in range(8)}


async def test_returned_data_belong_to_the_caller(storage: StateStorage) -> None:
    await storage.set_data(KEY, {"a": []})
    (await storage.get_data(KEY))["a"].append(1)

    assert await storage.get_data(KEY) == {"a": []}


async def test_dialogs_expire(tenants: dict[str, UUID]) -> None:
    storage = StateStorage(tenants["acme"], expires_in=timedelta(milliseconds=50))
    await storage.set_state(KEY, "x")
    await storage.update_data(KEY, {"a": 1})
    await asyncio.sleep(0.1)

    assert (await storage.get_state(KEY), await storage.get_data(KEY)) == (None, {})


async def test_a_tenant_has_its_own_dialogs(tenants: dict[str, UUID]) -> None:
    storage = StateStorage(lambda key: tenants["acme" if key.bot_id == 42 else "globex"])
    await storage.set_state(KEY, "mine")
    await storage.set_state(OTHERS[0], "theirs")

    with tenant_context(tenants["globex"]):
        assert await StateStorage().get_state(KEY) is None
        assert await StateStorage().get_state(OTHERS[0]) == "theirs"


async def test_the_export_and_the_erasure_of_a_user_include_the_dialogs(
    tenants: dict[str, UUID], storage: StateStorage
) -> None:
    await storage.set_state(KEY, "x")
    await storage.set_data(KEY, {"name": "Ada"})

    with tenant_context(tenants["acme"]):
        user = await get_store().user_by_telegram_id(7)
        assert user is not None
        async with get_db() as session:
            users = UserRepository(session)
            tables = [row["table"] async for row in users.export(user.id)]
            await users.erase(user.id)
    assert tables.count("state_entries") == 2
    assert (await storage.get_state(KEY), await storage.get_data(KEY)) == (None, {})
    await storage.set_state(KEY, "again")
    assert await storage.get_state(KEY) == "again"


async def test_updates_of_one_dialog_are_handled_one_after_another_in_all_processes(tenants: dict[str, UUID]) -> None:
    workers = [StateIsolation(tenants["acme"]) for _ in range(3)]
    inside, most = 0, 0

    async def handle(worker: StateIsolation, key: StorageKey) -> None:
        nonlocal inside, most
        async with worker.lock(key):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    await asyncio.gather(*(handle(worker, KEY) for worker in workers for _ in range(3)))
    assert most == 1
    async with workers[0].lock(KEY), workers[1].lock(OTHERS[0]):
        assert get_store().pool.in_use == 0
    await workers[0].close()


async def test_a_dialog_of_a_killed_worker_is_free_when_its_lease_ends(tenants: dict[str, UUID]) -> None:
    with tenant_context(tenants["acme"]):
        lease = f"aiogram:{[42, -42, 7]}"[:-1].replace(" ", "") + ',null,null,"default"]'
        await get_store().state.set(LEASES, lease, "a killed worker", expires_in=timedelta(seconds=1))
    begun = asyncio.get_running_loop().time()

    async with StateIsolation(tenants["acme"]).lock(KEY):
        assert asyncio.get_running_loop().time() - begun > 0.8


async def test_a_handler_that_is_cancelled_or_fails_frees_its_dialog(tenants: dict[str, UUID]) -> None:
    isolation = StateIsolation(tenants["acme"])

    async def handle() -> None:
        async with isolation.lock(KEY):
            await asyncio.sleep(60)

    task = asyncio.create_task(handle())
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.wait([task])
    with pytest.raises(StaleDataError, match="mine"):
        async with asyncio.timeout(5), isolation.lock(KEY):
            raise StaleDataError("mine")
    async with asyncio.timeout(5), StateIsolation(tenants["acme"]).lock(KEY):
        pass


async def test_the_example_leads_a_dialog(cloned_database: object) -> None:
    example = importlib.import_module("examples.aiogram_dialog")
    bot = MockedBot()
    for number, text in enumerate(("Hi", "Ada", "Hi")):
        sender = Sender(id=7, is_bot=False, first_name="x")
        message = Message(
            message_id=number, date=datetime.now(UTC), chat=Chat(id=7, type="private"), from_user=sender, text=text
        )
        await example.dispatcher.feed_update(bot, Update(update_id=number, message=message))

    assert bot.texts == ["What is your name?", "Hello, Ada!", "What is your name?"]
    async with get_db() as session:
        assert [user.telegram_id async for user in UserRepository(session).stream(User.telegram_id == 7)] == [7]
