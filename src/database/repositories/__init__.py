"""The repositories, one for each table. They flush and never commit: `get_db` does."""

from src.database.repositories.base import Repository, Upserted
from src.database.repositories.conversations import ConversationRepository
from src.database.repositories.events import EventRepository, Occurrence
from src.database.repositories.messages import Appended, MessageHistoryRepository
from src.database.repositories.notes import NoteHit, NoteRepository, TagCount
from src.database.repositories.state import StateRepository
from src.database.repositories.tenants import TenantRepository
from src.database.repositories.user_identities import UserIdentityRepository
from src.database.repositories.users import UserRepository
from src.database.statements import LastMessage, Latest, NewMessage, Turn, Usage, purge_expired

__all__ = [
    "Appended",
    "ConversationRepository",
    "EventRepository",
    "LastMessage",
    "Latest",
    "MessageHistoryRepository",
    "NewMessage",
    "NoteHit",
    "NoteRepository",
    "Occurrence",
    "Repository",
    "StateRepository",
    "TagCount",
    "TenantRepository",
    "Turn",
    "Upserted",
    "Usage",
    "UserIdentityRepository",
    "UserRepository",
    "purge_expired",
]
