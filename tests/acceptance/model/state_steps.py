"""Steps of state."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from src.database.repositories import StateRepository
from src.database.session import AsyncSession
from tests.acceptance.model.steps import PICK, TENANT, Steps, pick

KEY = st.sampled_from(["a", "a%", "ab", "b"])
NAME = st.sampled_from(["x", "y"])


class StateSteps(Steps):
    """The rules of the entries of users."""

    @rule(tenant=TENANT, number=PICK, key=KEY, name=NAME, merges=st.booleans(), expected=st.sampled_from([None, 0, 1]))
    def set_entry(  # noqa: PLR0917 - drawn by hypothesis
        self, tenant: int, number: int, key: str, name: str, merges: bool, expected: int | None
    ) -> None:
        model = self.models[tenant]
        if owner := pick(model.users, number):
            expected = None if merges else expected
            value = {name: model.entries.get((owner.id, key), (None, 0))[1]}

            async def write(session: AsyncSession) -> int:
                entries = StateRepository(session)
                if merges:
                    return (await entries.merge("n", key, value, user_id=owner.id)).version
                return (await entries.set("n", key, value, user_id=owner.id, expected_version=expected)).version

            self.expect(self.call(tenant, write), lambda: model.set_entry(owner, key, value, expected, merges=merges))

    @rule(tenant=TENANT, number=PICK, key=KEY, expected=st.sampled_from([None, None, 1, 2]))
    def delete_entry(self, tenant: int, number: int, key: str, expected: int | None) -> None:
        model = self.models[tenant]
        if owner := pick(model.users, number):
            options: dict[str, Any] = {"user_id": owner.id, "expected_version": expected}
            got = self.call(tenant, lambda s: StateRepository(s).delete_by_key("n", key, **options))
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

    @rule(tenant=TENANT, number=PICK, prefix=st.sampled_from(["", "a", "a%", "c"]))
    def list_entries(self, tenant: int, number: int, prefix: str) -> None:
        model = self.models[tenant]
        if owner := pick(model.users, number):
            page = self.call(tenant, lambda s: StateRepository(s).page_by_prefix("n", prefix, user_id=owner.id))
            mine = [key for of, key in model.entries if of == owner.id and key.startswith(prefix) and not owner.deleted]
            assert [entry.key for entry in page.items] == sorted(mine)
