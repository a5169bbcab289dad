"""Checkpoints of LangGraph (extra `langgraph`): its `BaseCheckpointSaver`."""

from src.database.integrations.langgraph.checkpoints import StoredCheckpoints

__all__ = ["StoredCheckpoints"]
