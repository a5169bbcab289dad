"""The plain tables as Tortoise's documentation shows them."""

from __future__ import annotations

from uuid import uuid4

from tortoise import fields
from tortoise.models import Model

__all__ = ["Conversation", "Message", "User"]


class User(Model):
    """A user."""

    id = fields.UUIDField(primary_key=True, default=uuid4)
    tenant_id = fields.UUIDField()
    telegram_id = fields.BigIntField(null=True)
    username = fields.TextField(null=True)
    display_name = fields.TextField(null=True)
    locale = fields.TextField(null=True)
    timezone = fields.TextField(default="UTC")
    is_active = fields.BooleanField(default=True)
    last_seen_at = fields.DatetimeField(null=True)
    created_at = fields.DatetimeField(auto_now_add=True)
    preferences: fields.JSONField = fields.JSONField(default=dict)
    deleted_at = fields.DatetimeField(null=True)

    class Meta:
        """Its table."""

        table = "users"


class Conversation(Model):
    """A conversation."""

    id = fields.UUIDField(primary_key=True, default=uuid4)
    tenant_id = fields.UUIDField()
    user_id = fields.UUIDField()
    session_id = fields.TextField()
    is_active = fields.BooleanField(default=True)
    channel = fields.TextField()
    external_chat_id = fields.TextField(null=True)
    title = fields.TextField(null=True)
    summary = fields.TextField(null=True)
    summary_upto_seq = fields.BigIntField(default=0)
    last_seq = fields.BigIntField(default=0)
    last_message_at = fields.DatetimeField(null=True)
    created_at = fields.DatetimeField(auto_now_add=True)
    updated_at = fields.DatetimeField(auto_now=True)
    deleted_at = fields.DatetimeField(null=True)

    class Meta:
        """Its table."""

        table = "conversations"


class Message(Model):
    """A message."""

    id = fields.UUIDField(primary_key=True, default=uuid4)
    tenant_id = fields.UUIDField()
    conversation_id = fields.UUIDField()
    user_id = fields.UUIDField()
    seq = fields.BigIntField()
    message_id = fields.TextField()
    role = fields.TextField()
    content = fields.TextField(null=True)
    parts: fields.JSONField = fields.JSONField(null=True)
    attachments: fields.JSONField = fields.JSONField(default=list)
    parent_id = fields.UUIDField(null=True)
    tool_call_id = fields.TextField(null=True)
    tool_name = fields.TextField(null=True)
    model = fields.TextField(null=True)
    input_tokens = fields.IntField(null=True)
    output_tokens = fields.IntField(null=True)
    token_count = fields.IntField(null=True)
    state = fields.TextField(default="complete")
    created_at = fields.DatetimeField()
    edited_at = fields.DatetimeField(null=True)
    extra: fields.JSONField = fields.JSONField(source_field="metadata", default=dict)
    deleted_at = fields.DatetimeField(null=True)

    class Meta:
        """Its table."""

        table = "message_history"
