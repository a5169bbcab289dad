"""Typed inputs from outside: one schema to create and one to update a row of each table."""

from src.database.schemas.inputs import (
    ConversationCreate,
    ConversationUpdate,
    EventCreate,
    EventUpdate,
    MessageCreate,
    MessageUpdate,
    NoteCreate,
    NoteUpdate,
    TenantCreate,
    TenantUpdate,
    UserCreate,
    UserUpdate,
)

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
