"""Steps of state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from hypothesis import strategies as st
from hypothesis.stateful import rule

from src.database.repositories import StateRepository
from src.database.session import get_db
from src.database.store import StateStore, get_store
from tests.acceptance.model.steps import PICK, STORED, TENANT, Steps, pick
from tests.database.store.paths import Path

Entries: TypeAlias = StateStore | StateRepository
KEY = st.sampled_from(["a", "a%", "ab", "b"])
NAME = st.sampled_from(["x", "y"])


class StateSteps(Steps):
    """The rules of the entries of users."""

    def state(self, tenant: int, work: Callable[[Entries], Awaitable[Any]], *, stored: bool) -> Any:
        """Call the state of the store or of the repositories."""

        async def call(_path: Path) -> Any:
            if stored:
                return await work(get_store().state)
            async with get_db() as session:
                return await work(StateRepository(session))

        return self.by(tenant, call, stored=stored)

    @rule(
        tenant=TENANT,
        number=PICK,
        key=KEY,
        name=NAME,
        merges=st.booleans(),
        expected=st.sampled_from([None, 0, 1]),
        stored=STORED,
    )
    def set_entry(
        self, tenant: int, number: int, key: str, name: str, expected: int | None, *, merges: bool, stored: bool
    ) -> None:
        model = self.models[tenant]
        if owner := pick(model.users, number):
            expected = None if merges else expected
            value = {name: model.entries.get((owner.id, key), (None, 0))[1]}

            async def write(entries: Entries) -> int:
                if merges:
                    return (await entries.merge("n", key, value, user_id=owner.id)).version
                return (await entries.set("n", key, value, user_id=owner.id, expected_version=expected)).version

            got = self.state(tenant, write, stored=stored)
            self.expect(got, lambda: model.set_entry(owner, key, value, expected, merges=merges))

    @rule(tenant=TENANT, number=PICK, key=KEY, expected=st.sampled_from([None, None, 1, 2]), stored=STORED)
    def delete_entry(self, tenant: int, number: int, key: str, expected: int | None, *, stored: bool) -> None:
        model = self.models[tenant]
        if owner := pick(model.users, number):
            options: dict[str, Any] = {"user_id": owner.id, "expected_version": expected}
            got = self.state(tenant, lambda entries: entries.delete_by_key("n", key, **options), stored=stored)
            self.expect(got, lambda: model.delete_entry(owner, key, expected))

    @rule(tenant=TENANT, number=PICK, prefix=st.sampled_from(["a%", "c"]))
    def delete_entries(self, tenant: int, number: int, prefix: str) -> None:
        model = self.models[tenant]
        if owner := pick(model.users, number):
            deleted = self.call(tenant, lambda s: StateRepository(s).delete_by_prefix("n", prefix, user_id=owner.id))
            mine = [key for of, key in model.entries if of == owner.id and key.startswith(prefix) and not owner.deleted]
            assert deleted == len(mine)
            for key in mine:
                del model.entries[owner.id, key]

    @rule(
        tenant=TENANT,
        number=PICK,
        prefix=st.sampled_from(["", "a", "a%", "c"]),
        descending=st.booleans(),
        stored=STORED,
    )
    def list_entries(self, tenant: int, number: int, prefix: str, *, descending: bool, stored: bool) -> None:
        model = self.models[tenant]
        if owner := pick(model.users, number):
            options: dict[str, Any] = {"user_id": owner.id, "descending": descending}
            page = self.state(tenant, lambda entries: entries.page_by_prefix("n", prefix, **options), stored=stored)
            mine = [key for of, key in model.entries if of == owner.id and key.startswith(prefix) and not owner.deleted]
            assert [entry.key for entry in page.items] == sorted(mine, reverse=descending)
            keys = [*mine, "none"]
            found = self.state(tenant, lambda entries: entries.get_by_keys("n", keys, user_id=owner.id), stored=stored)
            assert {key: entry.value for key, entry in found.items()} == {
                key: model.entries[owner.id, key][0] for key in mine
            }
