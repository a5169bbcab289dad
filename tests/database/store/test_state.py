"""Values under keys: the same through the store and the repository."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import URL, text

from src.database import get_db, tenant_context
from src.database.base import uuid7
from src.database.errors import DatabaseError, DuplicateKeyError, NotFoundError, StaleDataError
from src.database.models import StateEntry, Tenant, User
from src.database.repositories import (
    ConversationRepository,
    StateRepository,
    UserRepository,
    purge_expired,
)
from src.database.statements import InvalidCursorError
from src.database.statements.state import LARGEST_VALUE
from src.database.store import get_store
from tests.database.store.paths import ByRepositories

DAY = timedelta(days=1)


class InRepository:
    """The methods of the repository, each in a session of its own."""

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **options: Any) -> Any:
            async with get_db() as session:
                return await getattr(StateRepository(session), name)(*arguments, **options)

        return call


class InStore:
    """The methods of the store."""

    def __getattr__(self, name: str) -> Any:
        return getattr(get_store().state, name)


@pytest.fixture(params=[InRepository, InStore], ids=["repository", "store"])
def entries(request: pytest.FixtureRequest, pooled: URL) -> Any:
    return request.param()


@pytest.fixture
async def user_id(pooled: URL) -> UUID:
    created, _ = await ByRepositories().get_or_create_user(1)
    return created


async def expire(key: str, seconds_ago: int = 1) -> None:
    """Set the expiry of an entry to an earlier time."""
    async with get_db() as session:
        change = "UPDATE state_entries SET expires_at = now() - make_interval(secs => :ago) WHERE key = :key"
        await session.execute(text(change), {"ago": seconds_ago, "key": key})


@pytest.mark.parametrize(
    "value", [None, False, 0, "", [], {}, {"a": [1.5, {"b": "\0\ud83d"}]}, "\ufdd00000", b"", b"\0\xff"]
)
async def test_a_value_comes_back_equal(entries: Any, value: Any) -> None:
    written = await entries.set("n", "k", value)
    read = await entries.get_by_key("n", "k")

    assert (written.value, written.version, written.expires_at) == (value, 1, None)
    assert (read.value, type(read.value), read.namespace, read.key) == (value, type(value), "n", "k")


async def test_each_write_increments_the_version(entries: Any) -> None:
    versions = [(await entries.set("n", "k", value)).version for value in (1, b"2", None)]

    assert versions == [1, 2, 3]
    assert (await entries.get_by_key("n", "k")).value is None


async def test_owners_and_namespaces_are_apart(entries: Any, user_id: UUID, conversation_id: UUID) -> None:
    owners: list[dict[str, UUID]] = [{}, {"user_id": user_id}, {"conversation_id": conversation_id}]
    for number, owner in enumerate(owners):
        await entries.set("n", "k", number, **owner)
    await entries.set("other", "k", "x")

    assert [(await entries.get_by_key("n", "k", **owner)).value for owner in owners] == [0, 1, 2]
    assert [len((await entries.page_by_prefix("n", **owner)).items) for owner in owners] == [1, 1, 1]
    assert await entries.delete_by_key("n", "k", user_id=user_id)
    assert [await entries.get_by_key("n", "k", **owner) is None for owner in owners] == [False, True, False]


async def test_another_tenant_has_other_entries(entries: Any, user_id: UUID) -> None:
    other = uuid7()
    await entries.set("n", "k", "mine")
    await entries.set("n", "k", "mine", user_id=user_id)
    async with get_db() as session:
        session.add(Tenant(id=other, slug=f"t{other.hex}", name="T"))

    with tenant_context(other):
        assert await entries.get_by_key("n", "k") is None
        assert await entries.get_by_key("n", "k", user_id=user_id) is None
        assert not await entries.delete_by_key("n", "k", user_id=user_id)
        with pytest.raises(NotFoundError, match="no User with id"):
            await entries.set("n", "k", "stolen", user_id=user_id)
        await entries.set("n", "k", "theirs")
    assert (await entries.get_by_key("n", "k")).value == "mine"


async def test_of_two_writers_that_expect_a_version_one_is_refused(entries: Any) -> None:
    created = await asyncio.gather(
        *(entries.set("n", "k", number, expected_version=0) for number in range(4)), return_exceptions=True
    )
    changed = await asyncio.gather(
        *(entries.set("n", "k", number, expected_version=1) for number in range(4)), return_exceptions=True
    )

    for results in (created, changed):
        assert sorted(type(one).__name__ for one in results)[:3] == ["StaleDataError"] * 3
    assert (await entries.get_by_key("n", "k")).version == 2
    with pytest.raises(StaleDataError, match="has version 2, expected was version 1; nothing was written"):
        await entries.set("n", "k", 1, expected_version=1)
    with pytest.raises(StaleDataError, match="is missing, expected was version 7"):
        await entries.set("n", "none", 1, expected_version=7)


async def test_eight_writers_of_eight_keys_keep_eight(entries: Any) -> None:
    merged = await asyncio.gather(*(entries.merge("n", "k", {f"\0{number}": number}) for number in range(8)))

    read = await entries.get_by_key("n", "k")
    assert read.value == {f"\0{number}": number for number in range(8)}
    assert (read.version, max(len(one.value) for one in merged)) == (8, 8)


async def test_merge_keeps_the_expiry_and_replaces_what_is_no_object(entries: Any) -> None:
    first = await entries.set("n", "k", b"bytes", expires_in=DAY)
    replaced = await entries.merge("n", "k", {"a": 1})
    longer = await entries.merge("n", "k", {"b": 2}, expires_in=2 * DAY)

    assert (replaced.value, replaced.expires_at) == ({"a": 1}, first.expires_at)
    assert longer.value == {"a": 1, "b": 2}
    assert longer.expires_at - first.expires_at > 0.9 * DAY
    assert (await entries.set("n", "k", {})).expires_at is None


async def test_many_are_written_and_read_at_once(entries: Any) -> None:
    await entries.set("n", "b", 0)
    written = await entries.set_many("n", {"a": 1, "b": b"2", "c": None}, expires_in=DAY)
    read = await entries.get_by_keys("n", ["c", "b", "a", "none"])

    assert {key: (one.value, one.version) for key, one in written.items()} == {
        "a": (1, 1),
        "b": (b"2", 2),
        "c": (None, 1),
    }
    assert {key: one.value for key, one in read.items()} == {"a": 1, "b": b"2", "c": None}
    assert (await entries.set_many("n", {}), await entries.get_by_keys("n", [])) == ({}, {})


async def test_writers_of_the_same_keys_in_another_order_do_not_deadlock(entries: Any) -> None:
    keys = [f"k{number}" for number in range(20)]

    await asyncio.gather(*(entries.set_many("n", dict.fromkeys(keys[:: 1 - 2 * (n % 2)], n)) for n in range(8)))

    read = await entries.get_by_keys("n", keys)
    assert {one.version for one in read.values()} == {8}
    assert len({one.value for one in read.values()}) == 1


async def test_an_expired_entry_is_missing_and_its_version_continues(entries: Any) -> None:
    await entries.set("n", "k", {"a": 1}, expires_in=DAY)
    await expire("k")

    assert await entries.get_by_key("n", "k") is None
    assert (await entries.page_by_prefix("n")).items == []
    assert not await entries.delete_by_key("n", "k")
    with pytest.raises(StaleDataError, match="is missing"):
        await entries.set("n", "k", 2, expected_version=1)
    anew = await entries.merge("n", "k", {"b": 2})
    assert (anew.value, anew.version, anew.expires_at) == ({"b": 2}, 2, None)
    await entries.set("n", "k", 1, expires_in=DAY)
    await expire("k")
    assert (await entries.set("n", "k", 5, expected_version=0)).version == 4


async def test_an_entry_expires_by_the_servers_clock(entries: Any) -> None:
    await entries.set("n", "k", 1, expires_in=timedelta(milliseconds=30))
    await asyncio.sleep(0.05)

    assert await entries.get_by_key("n", "k") is None


async def test_delete_compares_the_version(entries: Any) -> None:
    await entries.set("n", "k", 1)

    with pytest.raises(StaleDataError, match="has version 1, expected was version 2"):
        await entries.delete_by_key("n", "k", expected_version=2)
    assert await entries.delete_by_key("n", "k", expected_version=1)
    assert not await entries.delete_by_key("n", "k")
    with pytest.raises(StaleDataError, match="is missing"):
        await entries.delete_by_key("n", "k", expected_version=1)
    assert (await entries.set("n", "k", 1)).version == 1


async def test_pages_have_the_keys_with_a_prefix_in_order(entries: Any) -> None:
    keys = ["a%", "a%1", "a_", "ab", "a", "b", "A", "ä", "a\U0010ffff", "a%\U0010ffff\U0010ffff"]
    await entries.set_many("n", dict.fromkeys(keys, 1))

    async def keys_of(prefix: str, limit: int) -> AsyncIterator[str]:
        page = await entries.page_by_prefix("n", prefix, limit=limit)
        while True:
            assert len(page.items) <= limit
            for one in page.items:
                yield one.key
            if page.next_cursor is None:
                return
            page = await entries.page_by_prefix("n", prefix, after=page.next_cursor, limit=limit)

    for prefix in ("", "a", "a%", "a_", "z", "ä", "\U0010ffff"):
        expected = sorted(key for key in keys if key.startswith(prefix))
        assert [key async for key in keys_of(prefix, 2)] == expected, prefix
        assert [key async for key in keys_of(prefix, 1000)] == expected, prefix
    first = await entries.page_by_prefix("n", "a", limit=1)
    for namespace, prefix, cursor in (("other", "a", first.next_cursor), ("n", "", first.next_cursor), ("n", "a", "x")):
        with pytest.raises(InvalidCursorError):
            await entries.page_by_prefix(namespace, prefix, after=cursor)


@pytest.mark.parametrize("descending", [False, True])
async def test_a_page_can_begin_and_end_within_the_prefix_and_run_backward(entries: Any, descending: bool) -> None:
    keys = [f"a{number}" for number in range(9)]
    await entries.set_many("n", dict.fromkeys(["a", *keys, "b"], 1))

    async def keys_between(start: str | None, stop: str | None) -> list[str]:
        options: dict[str, Any] = {"start": start, "stop": stop, "descending": descending, "limit": 2}
        page, found = await entries.page_by_prefix("n", "a", **options), list[str]()
        while True:
            found += [one.key for one in page.items]
            if page.next_cursor is None:
                return found[::-1] if descending else found
            page = await entries.page_by_prefix("n", "a", after=page.next_cursor, **options)

    assert await keys_between(None, None) == ["a", *keys]
    assert await keys_between("a2", "a5") == ["a2", "a3", "a4"]
    assert await keys_between("A", "z") == ["a", *keys]
    assert await keys_between("b", None) == await keys_between(None, "a") == await keys_between("a5", "a2") == []
    first = await entries.page_by_prefix("n", "a", limit=1, descending=descending)
    with pytest.raises(InvalidCursorError):
        await entries.page_by_prefix("n", "a", after=first.next_cursor, descending=not descending)
    for name in ("start", "stop"):
        with pytest.raises(ValueError, match=f"^{name} "):
            await entries.page_by_prefix("n", **{name: "a\0"})


async def test_many_entries_are_deleted_by_key_or_by_prefix(pooled: URL, user_id: UUID) -> None:
    async with get_db() as session:
        entries = StateRepository(session)
        owners: list[dict[str, Any]] = [{}, {"user_id": user_id}]
        for owner in owners:
            await entries.set_many("n", dict.fromkeys(["a", "a%", "a1", "a2", "a3", "b"], 1), **owner)
        await entries.set("other", "a1", 1)

        assert await entries.delete_by_keys("n", ["a", "missing"]) == 1
        assert await entries.delete_by_prefix("n", "a%") == 1
        assert await entries.delete_by_prefix("n", "a", start="a1", stop="a3") == 2
        assert [one.key for one in (await entries.page_by_prefix("n")).items] == ["a3", "b"]
        assert await entries.delete_by_prefix("n", "") == 2
        assert await entries.delete_by_keys("n", []) == 0
        assert len((await entries.page_by_prefix("n", user_id=user_id)).items) == 6
        assert len((await entries.page_by_prefix("other")).items) == 1
        with pytest.raises(ValueError, match="keys must be a list"):
            await entries.delete_by_keys("n", "ab")
        await UserRepository(session).delete(user_id)
        assert await entries.delete_by_prefix("n", "", user_id=user_id) == 0  # restore brings them back


async def test_entries_of_a_deleted_owner_are_missing(entries: Any, user_id: UUID, conversation_id: UUID) -> None:
    owners: tuple[tuple[Any, UUID, dict[str, UUID]], ...] = (
        (ConversationRepository, conversation_id, {"conversation_id": conversation_id}),
        (UserRepository, user_id, {"user_id": user_id}),
    )
    for repository, row_id, owner in owners:
        await entries.set("n", "k", 1, **owner)
        async with get_db() as session:
            await repository(session).delete(row_id)

        assert await entries.get_by_key("n", "k", **owner) is None
        assert (await entries.page_by_prefix("n", **owner)).items == []
        assert not await entries.delete_by_key("n", "k", **owner)
        with pytest.raises(NotFoundError, match=f"this tenant has no .* with id {row_id}"):
            await entries.set("n", "k", 2, **owner)
        async with get_db() as session:
            await repository(session).restore(row_id)
        assert (await entries.get_by_key("n", "k", **owner)).value == 1


@pytest.mark.parametrize(
    ("arguments", "options", "rule"),
    [
        (("", "k", 1), {}, "namespace must be 1 to 64 characters, got 0"),
        (("n" * 65, "k", 1), {}, "namespace must be 1 to 64 characters, got 65"),
        (("n", "", 1), {}, "key must be 1 to 512 characters, got 0"),
        (("n", "k" * 513, 1), {}, "key must be 1 to 512 characters, got 513"),
        (("n", None, 1), {}, "key must be a string, got None"),
        (("n", 7, 1), {}, "key must be a str, got int"),
        (("n", "a\0", 1), {}, "key must have no NUL and no surrogates"),
        (("\ud83d", "k", 1), {}, "namespace must have no NUL and no surrogates"),
        (("n", "k", {"secret": object()}), {}, "state 'n': value must have only text, .* got object at value.secret"),
        (("n", "k", {"secret": float("nan")}), {}, "value must have only finite numbers, got nan at value.secret"),
        (("n", "k", bytearray(b"x")), {}, "value must have only text"),
        (("n", "k", b"x" * (LARGEST_VALUE + 1)), {}, "value must be at most 16777216 bytes, got 16777217"),
        (("n", "k", "x" * LARGEST_VALUE), {}, "value must be at most 16777216 bytes, got 16777218"),
        (("n", "k", 1), {"expected_version": -1}, "expected_version must be an integer from 0"),
        (("n", "k", 1), {"expected_version": True}, "expected_version must be an integer from 0 .* got a bool"),
        (("n", "k", 1), {"expected_version": 2**63}, "expected_version must be an integer"),
        (("n", "k", 1), {"expires_in": timedelta(0)}, "expires_in must be more than zero"),
        (("n", "k", 1), {"expires_in": 5}, "expires_in must be a timedelta, such as .*, got int"),
        (("n", "k", 1), {"expires_in": timedelta.max}, "expires_in must be .* at most 36500 days"),
        (("n", "k", 1), {"user_id": "x"}, "user_id must be a uuid.UUID"),
        (("n", "k", 1), {"user_id": uuid7(), "conversation_id": uuid7()}, "user_id or conversation_id, got both"),
    ],
)
async def test_invalid_input_is_refused_before_sending(entries: Any, arguments: Any, options: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=rule) as caught:
        await entries.set(*arguments, **options)

    assert "secret'" not in str(caught.value)


async def test_the_other_methods_check_their_arguments(entries: Any) -> None:
    with pytest.raises(ValueError, match="keys must be a list of strings, got a str"):
        await entries.get_by_keys("n", "keys")
    with pytest.raises(ValueError, match="keys must be at most 1000, got 1001"):
        await entries.set_many("n", {str(number): 1 for number in range(1001)})
    with pytest.raises(ValueError, match="values must be a dict, got list"):
        await entries.merge("n", "k", [1])
    with pytest.raises(ValueError, match="expected_version must be an integer from 1"):
        await entries.delete_by_key("n", "k", expected_version=0)
    with pytest.raises(ValueError, match="limit must be from 1"):
        await entries.page_by_prefix("n", limit=0)
    with pytest.raises(ValueError, match="prefix must have no NUL"):
        await entries.page_by_prefix("n", "\0")
    longest = await entries.set("\U0001f600" * 64, "\U0001f600" * 512, 1)
    assert (await entries.get_by_key(longest.namespace, longest.key)).version == 1


async def test_an_entity_of_the_session_has_the_written_value(pooled: URL) -> None:
    async with get_db() as session:
        repository = StateRepository(session)
        entry = await repository.set("n", "k", {"a": 1})
        again = await repository.merge("n", "k", {"b": 2})
        assert again is entry
        assert (entry.value, entry.version) == ({"a": 1, "b": 2}, 2)

        await get_store().state.set("n", "other", 1)
        entry.data = [3]
        await session.flush()
        assert entry.version == 3
        assert await repository.delete_by_key("n", "k")
        entry.data = 4
        await session.flush()
        assert await repository.get_by_key("n", "k") is None


async def test_an_entity_that_another_writer_has_changed_is_stale(pooled: URL) -> None:
    with pytest.raises(StaleDataError):  # noqa: PT012 - the session
        async with get_db() as session:
            entry = await StateRepository(session).get_one(
                StateEntry.id == (await get_store().state.set("n", "k", 1)).id
            )
            await get_store().state.set("n", "k", 2)
            entry.data = 3
            await session.flush()

    found = await get_store().state.get_by_key("n", "k")
    assert found is not None
    assert (found.value, found.version) == (2, 2)


async def test_the_methods_of_every_repository_skip_expired_entries(pooled: URL) -> None:
    entry = await get_store().state.set("n", "k", 1, expires_in=DAY)
    await expire("k")

    async with get_db() as session:
        repository = StateRepository(session)
        assert await repository.get_or_none(entry.id) is None
        assert await repository.count() == 0
    with pytest.raises(DuplicateKeyError):
        async with get_db() as session:
            await StateRepository(session).add(StateEntry(namespace="n", key="k", data=2))


async def test_expired_entries_are_purged_after_an_hour(pooled: URL, user_id: UUID) -> None:
    state = get_store().state
    for key, owner in (("old", None), ("of a user", user_id), ("just expired", None), ("live", None)):
        await state.set("n", key, 1, expires_in=DAY, user_id=owner)
    for key, seconds in (("old", 3700), ("of a user", 3700), ("just expired", 3500)):
        await expire(key, seconds)

    async with get_db() as session:
        planned = await purge_expired(session, dry_run=True)
        done = await purge_expired(session)

    assert planned["state_entries"] == done["state_entries"] == 2
    assert (await state.set("n", "just expired", 1)).version == 2
    assert (await state.set("n", "old", 1)).version == 1


async def test_entries_are_deleted_with_their_owner(pooled: URL, user_id: UUID, conversation_id: UUID) -> None:
    state = get_store().state
    await state.set("n", "k", {"a": 1}, user_id=user_id)
    await state.set("n", "k", b"\xff", conversation_id=conversation_id)
    await state.set("n", "k", "of the tenant")

    async with get_db() as session:
        exported = [
            row["row"] async for row in UserRepository(session).export(user_id) if row["table"] == "state_entries"
        ]
        erased = await UserRepository(session).erase(user_id)

    assert sorted(str(row["data"] or row["blob"]) for row in exported) == ["\\xff", "{'a': 1}"]
    assert erased["state_entries"] == 2
    kept = await state.get_by_key("n", "k")
    assert kept is not None


async def test_a_cancelled_write_is_whole_or_missing(entries: Any) -> None:
    for number in range(12):
        write = asyncio.ensure_future(entries.set_many("n", {f"{number}:{part}": 1 for part in range(50)}))
        await asyncio.sleep(number / 2000)
        write.cancel()
        await asyncio.wait([write])

        page = await entries.page_by_prefix("n", f"{number}:", limit=1000)
        assert len(page.items) in {0, 50}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
async def test_any_json_and_any_bytes_come_back_equal(pooled: URL) -> None:
    state, values = get_store().state, []

    @settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(JSON | st.binary())
    def collect(value: Any) -> None:
        values.append(value)

    collect()
    for value in values:
        written = await state.merge("n", "k", value) if isinstance(value, dict) and value else None
        await state.set("n", "k", value)
        read = await state.get_by_key("n", "k")
        assert read is not None
        assert (read.value, type(read.value) is bytes) == (value, type(value) is bytes)
        if written is not None:
            assert {name: written.value[name] for name in value} == value
            await state.delete_by_key("n", "k")


@pytest.mark.slow
async def test_an_object_that_grows_too_large_is_refused(pooled: URL) -> None:
    state = get_store().state
    half = "x" * (12 * 2**20)
    for name in ("a", "b"):
        await state.merge("n", "k", {name: half})

    with pytest.raises(DatabaseError, match="ck_state_entries_size"):
        await state.merge("n", "k", {"c": half})


async def test_a_user_with_entries_is_not_deleted_permanently_alone(pooled: URL, user_id: UUID) -> None:
    await get_store().state.set("n", "k", 1, user_id=user_id)

    with pytest.raises(DatabaseError, match="fk_state_entries_tenant_id_user_id"):
        async with get_db() as session:
            await UserRepository(session).delete(user_id, hard=True)
    async with get_db() as session:
        assert isinstance(await UserRepository(session).get(user_id), User)
