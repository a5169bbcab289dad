"""Sessions of Google's Agent Development Kit (extra `google-adk`): its `BaseSessionService`."""

from src.database.integrations.google_adk.session_service import StoredSessionService, session_id_of

__all__ = ["StoredSessionService", "session_id_of"]
