"""The isolation suites notice new code: a repository without calls is reported by the names of its methods."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from src.database.models import Note
from src.database.repositories import Repository, TenantRepository
from src.database.store import StateStore, Store
from tests.acceptance.calls import CALLS, REGISTRY_CALLS, STATE_CALLS, STORE_CALLS, missing_calls
from tests.acceptance.calls.discovery import discovered, public_methods
from tests.acceptance.calls.discovery import missing_calls as missing_from


@pytest.fixture
def contacts() -> Iterator[None]:
    """Define a repository without calls and a subclass of it; remove both at the end."""

    class ContactRepository(Repository[Note]):
        model = Note

        async def get_by_phone(self, phone: str) -> Note | None:
            return await self.get_one(Note.content == phone)

        async def stream_recent(self) -> AsyncIterator[Note]:
            async for row in self.stream():
                yield row

        @staticmethod
        def normalized(phone: str) -> str:
            return phone

        async def _unlisted(self) -> None: ...

    class VipContactRepository(ContactRepository):
        async def promote(self) -> None: ...

    yield
    del ContactRepository, VipContactRepository
    gc.collect()
    assert not [one for one in discovered() if one.__name__.endswith("ContactRepository")]


@pytest.mark.usefixtures("contacts")
def test_a_repository_without_calls_is_reported_by_name() -> None:
    missing = set(missing_calls())

    assert missing >= {
        "ContactRepository.get",
        "ContactRepository.get_by_phone",
        "ContactRepository.normalized",
        "ContactRepository.stream",
        "ContactRepository.stream_recent",
        "VipContactRepository.get_by_phone",
        "VipContactRepository.promote",
    }
    assert {name.partition(".")[0] for name in missing} == {"ContactRepository", "VipContactRepository"}


@pytest.mark.parametrize("listed", [*CALLS, TenantRepository, Store, StateStore])
def test_each_method_without_a_call_is_reported_by_name(listed: type[Any]) -> None:
    calls = {**CALLS, TenantRepository: REGISTRY_CALLS, Store: STORE_CALLS, StateStore: STATE_CALLS}

    for lost in public_methods(listed):
        kept = {name: call for name, call in calls[listed].items() if name.partition(",")[0] != lost}
        assert missing_from({**calls, listed: kept}) == [f"{listed.__name__}.{lost}"]


def test_asynchronous_generators_count_as_methods() -> None:
    assert "stream_messages" in public_methods(Store)
    assert "active" in public_methods(TenantRepository)
    assert "export" in public_methods(next(one for one in CALLS if one.__name__ == "UserRepository"))
