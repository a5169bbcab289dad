"""Failures before a connection is open, and the texts of public objects, each with a secret in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from src.config import Settings, get_settings
from src.database import create_engine
from src.database.base import uuid7
from src.database.engine.pool import SizedPool
from src.database.migrate import upgrade
from src.database.models import Conversation, Event, MessageHistory, Note, User
from src.database.repositories import NewMessage
from src.database.session import TenantBinding
from src.database.store import Profile
from tests.faults.canary import CONTENT, SECRET
from tests.faults.failures import USER_TEXT

__all__ = ["ON_THE_WAY", "PUBLIC"]


def _configured(url: str, **more: Any) -> Settings:
    return Settings(ENVIRONMENT=more.pop("ENVIRONMENT", "test"), DATABASE_URL=url, **more)


async def _connected(url: str, **more: Any) -> None:
    engine = create_engine(_configured(url, DATABASE_CONNECT_TIMEOUT=2, **more), poolclass=SizedPool)
    try:
        await engine.start()
    finally:
        await engine.dispose()


ON_THE_WAY: Final[dict[str, Callable[[int], Awaitable[Any]]]] = {
    "a wrong password": lambda port: _connected(f"postgresql://u:{SECRET}@127.0.0.1:{port}/d"),
    "a wrong password in the query": lambda port: _connected(f"postgresql://u@127.0.0.1:{port}/d?password={SECRET}"),
    "a closed port": lambda _: _connected(f"postgresql://u:{SECRET}@127.0.0.1:1/d"),
    "an unknown host": lambda _: _connected(f"postgresql://u:{SECRET}@no.invalid/d"),
    "no TLS": lambda port: _connected(f"postgresql://u:{SECRET}@127.0.0.1:{port}/d?sslmode=require"),
    "a bad port": lambda _: _connected(f"postgresql://u:{SECRET}@h:x/d"),
    "a bad URL": lambda _: _connected(f"postgresql//u:{SECRET}@h/d"),
    "an @ in the password": lambda _: _connected(f"postgresql://u:x@{SECRET}@h/d"),
    "an unknown parameter": lambda _: _connected(f"postgresql://u:{SECRET}@h/d?sslmod=x"),
    "bad settings": lambda _: _connected(f"postgresql://u:{SECRET}@h/d", DATABASE_POOL_SIZE=-1),
    "plaintext in production": lambda _: _connected(
        f"postgresql://u:{SECRET}@h/d?sslmode=disable", ENVIRONMENT="production"
    ),
    "a profile's password": lambda _: _connected("", DB_VM_PASSWORD=SECRET, DB_VM_PORT="x"),
    "a migration": lambda port: upgrade(_configured(f"postgresql://u:{SECRET}@127.0.0.1:{port}/d")),
    "a bad default tenant": lambda _: _connected(f"postgresql://u:{SECRET}@h/d", DATABASE_DEFAULT_TENANT="x"),
}

PUBLIC: Final[dict[str, Callable[[], Any]]] = {
    "settings": lambda: _configured(
        f"postgresql://u:{SECRET}@h/d", DATABASE_MIGRATION_URL=f"postgresql://o:{SECRET}@h/d"
    ),
    "engine": lambda: create_engine(_configured(f"postgresql://u:{SECRET}@h/d")),
    "engine's URL": lambda: (
        create_engine(_configured(f"postgresql://u:{SECRET}@h/d")).url.render_as_string(hide_password=False)
    ),
    "pool": lambda: vars(create_engine(_configured(f"postgresql://u:{SECRET}@h/d"), poolclass=SizedPool).pool),
    "binding": lambda: TenantBinding(uuid7(), limits={"lock_timeout": "1"}),
    "chosen settings": get_settings,
    "a message": lambda: NewMessage(
        message_id="x",
        role="user",
        content=USER_TEXT,
        parts=[USER_TEXT],
        attachments=[USER_TEXT],
        extra={"x": USER_TEXT},
    ),
    "a profile": lambda: Profile(username=CONTENT, display_name=CONTENT),
    "a mapped note": lambda: Note(user_id=uuid7(), content=USER_TEXT, title=USER_TEXT, tags=[USER_TEXT]),
    "a mapped message": lambda: MessageHistory(content=USER_TEXT, message_id="x"),
    "a mapped conversation": lambda: Conversation(title=USER_TEXT, summary=USER_TEXT),
    "a mapped event": lambda: Event(title=USER_TEXT, description=USER_TEXT),
    "a mapped user": lambda: User(display_name=USER_TEXT, preferences={"x": USER_TEXT}),
}  # fmt: skip
