"""Conversations of pydantic-ai (extra `pydantic-ai`): its `ConversationStore`, and a plain message history."""

from src.database.integrations.pydantic_ai.conversation_store import StoredConversations
from src.database.integrations.pydantic_ai.message_history import StoredMessageHistory

__all__ = ["StoredConversations", "StoredMessageHistory"]
