"""The API. The gateway in front authenticates the caller, and sets the tenant in the header X-Tenant."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse

from assistant.tasks import NewTask, Task, TaskRead, TaskRepository
from thea_database import AsyncSession, engine, get_db, get_read_db
from thea_database.integrations.fastapi import install_error_handlers
from thea_database.integrations.tenants import TenantMiddleware, from_header
from thea_database.repositories import ConversationRepository, MessageHistoryRepository, NewMessage, UserRepository
from thea_database.schemas import MessageRead, Page
from thea_database.store import TurnRows, get_store

Session = Annotated[AsyncSession, Depends(get_db, scope="function")]
ReadSession = Annotated[AsyncSession, Depends(get_read_db, scope="function")]


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Close all connections when the service ends."""
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
app.add_middleware(TenantMiddleware, tenant_of=from_header("X-Tenant"), public=["/docs", "/openapi.json"])
install_error_handlers(app)


@app.post("/users/{telegram_id}/tasks", status_code=201)
async def create_task(telegram_id: int, new: NewTask, session: Session) -> TaskRead:
    """Create a task of a user, who is created too if necessary."""
    user, _ = await UserRepository(session).get_or_create_by_telegram_id(telegram_id)
    return TaskRead.model_validate(await TaskRepository(session).add(Task(user_id=user.id, title=new.title)))


@app.post("/tasks/{task_id}/done")
async def finish_task(task_id: UUID, session: Session) -> TaskRead:
    """Mark a task as done."""
    return TaskRead.model_validate(await TaskRepository(session).update(task_id, is_done=True))


@app.get("/tasks")
async def read_tasks(session: ReadSession, after: str | None = None, limit: int = 50) -> Page[TaskRead]:
    """Return one page of the tasks of all users of the tenant."""
    return Page[TaskRead].model_validate(await TaskRepository(session).page(after=after, limit=limit))


@app.get("/users/{telegram_id}/messages")
async def read_messages(telegram_id: int, session: ReadSession) -> list[MessageRead]:
    """Return the last messages of a chat, the oldest first."""
    user = await UserRepository(session).get_by_telegram_id(telegram_id)
    chat = user and await ConversationRepository(session).get_active(user.id, "web", str(telegram_id))
    recent = await MessageHistoryRepository(session).recent(chat.id) if chat else []
    return [MessageRead.model_validate(message) for message in recent]


@app.post("/users/{telegram_id}/messages/{message_id}")
async def answer(telegram_id: int, message_id: str, text: str) -> StreamingResponse:
    """Store a message, and answer over SSE."""
    question = NewMessage(message_id=f"web:app:{telegram_id}:{message_id}", role="user", content=text)
    turn = await get_store().turn(telegram_id, "web", str(telegram_id), [question])
    events = (f"data: {json.dumps(piece)}\n\n" async for piece in write_answer(turn, text))
    return StreamingResponse(events, media_type="text/event-stream")


async def write_answer(turn: TurnRows, question: str) -> AsyncIterator[str]:
    """Yield the pieces of an answer, and store each. No session is open while the model writes.

    If the client leaves, the answer stays incomplete, and the worker ends it.
    """
    asked = turn.appended[0]
    if not asked.inserted:  # the client has sent the message again
        return
    written = 0
    answered = NewMessage(message_id=f"{asked.message_id}:answer", role="assistant", content="", state="incomplete")
    await get_store().append(turn.conversation.id, answered)
    async for piece in model([*(message.content or "" for message in turn.recent), question]):
        async with get_db() as session:
            await MessageHistoryRepository(session).extend(answered.message_id, piece, offset=written)
        written += len(piece)
        yield piece
    async with get_db() as session:
        await MessageHistoryRepository(session).mark_complete(answered.message_id)


async def model(prompt: list[str]) -> AsyncIterator[str]:
    """Yield the pieces of a text; this function stands for the call of a language model."""
    for word in f"You have sent {len(prompt)} messages. The last is: {prompt[-1]}".split(" "):
        yield f"{word} "
