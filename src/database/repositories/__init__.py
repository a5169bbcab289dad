"""What the tables can be asked, one repository each. They flush and never commit: `get_db` does."""

from src.database.repositories.base import Repository, Upserted
from src.database.repositories.conversations import ConversationRepository
from src.database.repositories.events import EventRepository, Occurrence
from src.database.repositories.messages import Appended, MessageHistoryRepository, NewMessage
from src.database.repositories.notes import NoteHit, NoteRepository
from src.database.repositories.users import UserRepository

__all__ = [
    "Appended",
    "ConversationRepository",
    "EventRepository",
    "MessageHistoryRepository",
    "NewMessage",
    "NoteHit",
    "NoteRepository",
    "Occurrence",
    "Repository",
    "Upserted",
    "UserRepository",
]
