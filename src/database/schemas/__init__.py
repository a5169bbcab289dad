"""What comes from outside, typed: one schema for creating and one for updating each entity."""

from src.database.schemas.conversation import ConversationCreate, ConversationUpdate
from src.database.schemas.event import EventCreate, EventUpdate
from src.database.schemas.message import MessageCreate, MessageUpdate
from src.database.schemas.note import NoteCreate, NoteUpdate
from src.database.schemas.tenant import TenantCreate, TenantUpdate
from src.database.schemas.user import UserCreate, UserUpdate

__all__ = [
    "ConversationCreate",
    "ConversationUpdate",
    "EventCreate",
    "EventUpdate",
    "MessageCreate",
    "MessageUpdate",
    "NoteCreate",
    "NoteUpdate",
    "TenantCreate",
    "TenantUpdate",
    "UserCreate",
    "UserUpdate",
]
