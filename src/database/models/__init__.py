"""The tables, one file each."""

from src.database.models.conversation import Conversation
from src.database.models.event import Event
from src.database.models.message_history import MessageHistory
from src.database.models.note import Note
from src.database.models.tenant import Tenant
from src.database.models.user import User

__all__ = ["Conversation", "Event", "MessageHistory", "Note", "Tenant", "User"]
