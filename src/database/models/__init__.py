"""The tables, one file each, and the limits of their values."""

from typing import TYPE_CHECKING

from src.database.base import Base
from src.database.models import limits
from src.database.models.conversation import Conversation
from src.database.models.event import Event, start_local_values
from src.database.models.message_history import MessageHistory
from src.database.models.note import ACCENTED, BARE, MAX_TAGS, SEPARATORS, Note, clean_tags
from src.database.models.state_entry import StateEntry
from src.database.models.tenant import Tenant
from src.database.models.user import User
from src.database.models.user_identity import UserIdentity

if TYPE_CHECKING:  # imported at its first use: its classes take 7 ms
    from src.database.models import attributes  # noqa: TC004 - `from src.database.models import attributes` imports it

__all__ = [
    "ACCENTED",
    "BARE",
    "MAX_TAGS",
    "SEPARATORS",
    "Conversation",
    "Event",
    "MessageHistory",
    "Note",
    "StateEntry",
    "Tenant",
    "User",
    "UserIdentity",
    "attributes",
    "clean_tags",
    "limits",
    "package_tables",
    "start_local_values",
]


def package_tables() -> frozenset[str]:
    """Return the names of this package's tables. The metadata of `Base` can have tables of a service too."""
    return frozenset(
        table.name
        for mapper in Base.registry.mappers
        for table in mapper.tables
        if mapper.class_.__module__.startswith(f"{__name__}.")
    )
