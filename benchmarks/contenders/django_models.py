"""The plain tables as Django's documentation shows them; import after `settings.configure`."""

from __future__ import annotations

import uuid

from django.db import models

__all__ = ["Conversation", "Message", "User"]


class User(models.Model):
    """A user."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    tenant_id = models.UUIDField()
    telegram_id = models.BigIntegerField(null=True)
    username = models.TextField(null=True)
    display_name = models.TextField(null=True)
    locale = models.TextField(null=True)
    timezone = models.TextField(default="UTC")
    is_active = models.BooleanField(default=True)
    last_seen_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    preferences = models.JSONField(default=dict)
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        """Its table."""

        app_label = "bench"
        db_table = "users"


class Conversation(models.Model):
    """A conversation."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    tenant_id = models.UUIDField()
    user_id = models.UUIDField()
    session_id = models.TextField()
    is_active = models.BooleanField(default=True)
    channel = models.TextField()
    external_chat_id = models.TextField(null=True)
    title = models.TextField(null=True)
    summary = models.TextField(null=True)
    summary_upto_seq = models.BigIntegerField(default=0)
    last_seq = models.BigIntegerField(default=0)
    last_message_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        """Its table."""

        app_label = "bench"
        db_table = "conversations"


class Message(models.Model):
    """A message."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    tenant_id = models.UUIDField()
    conversation_id = models.UUIDField()
    user_id = models.UUIDField()
    seq = models.BigIntegerField()
    message_id = models.TextField()
    role = models.TextField()
    content = models.TextField(null=True)
    parts = models.JSONField(null=True)
    attachments = models.JSONField(default=list)
    parent_id = models.UUIDField(null=True)
    tool_call_id = models.TextField(null=True)
    tool_name = models.TextField(null=True)
    model = models.TextField(null=True)
    input_tokens = models.IntegerField(null=True)
    output_tokens = models.IntegerField(null=True)
    token_count = models.IntegerField(null=True)
    state = models.TextField(default="complete")
    created_at = models.DateTimeField()
    edited_at = models.DateTimeField(null=True)
    extra = models.JSONField(db_column="metadata", default=dict)
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        """Its table."""

        app_label = "bench"
        db_table = "message_history"
