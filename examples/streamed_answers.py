"""Answers of a language model over SSE and a WebSocket, and work after a response: each step has a short session.

    uvicorn examples.streamed_answers:app

The model writes in a task of its own, which stores the answer even if the client leaves. While the model writes, no
session is open, so no connection is held. A task that a request starts keeps the tenant of the request.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from fastapi import BackgroundTasks, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from starlette.websockets import WebSocketDisconnect

from src.database import engine, get_db
from src.database.base import uuid7
from src.database.integrations.fastapi import install_error_handlers
from src.database.integrations.tenants import TenantMiddleware, from_header
from src.database.repositories import ConversationRepository, MessageHistoryRepository, NewMessage

writers: set[asyncio.Task[None]] = set()  # a task without a reference could be collected while it runs


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Wait for the running answers, and close all connections, when the service ends."""
    yield
    await asyncio.gather(*writers, return_exceptions=True)
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
app.add_middleware(TenantMiddleware, tenant_of=from_header("X-Tenant"))
install_error_handlers(app)


async def model(question: str) -> AsyncIterator[str]:
    """Yield the pieces of an answer. This function stands for the call of a language model."""
    for piece in ("You said: ", question):
        await asyncio.sleep(0.05)
        yield piece


async def write_answer(chat_id: UUID, question: str, pieces: asyncio.Queue[str | None]) -> None:
    """Store the question, run the model, and store the answer; it is marked as interrupted if the model fails."""
    key, written, is_complete = f"web:app:{chat_id}:{uuid7()}", "", False
    asked = NewMessage(message_id=f"{key}-question", role="user", content=question)
    answer = NewMessage(message_id=key, role="assistant", content="", state="incomplete")
    async with get_db() as session:
        await MessageHistoryRepository(session).append_many(chat_id, [asked, answer])
    try:
        async for piece in model(question):  # no session is open here
            written += piece
            pieces.put_nowait(piece)
        is_complete = True
    finally:
        async with get_db() as session:
            messages = MessageHistoryRepository(session)
            await messages.extend(key, written, offset=0)
            await (messages.mark_complete(key) if is_complete else messages.mark_interrupted(key))


def answer_to(chat_id: UUID, question: str) -> AsyncIterator[str]:
    """Start to write an answer, and return its pieces. The pieces need no database."""
    pieces: asyncio.Queue[str | None] = asyncio.Queue()
    writer = asyncio.create_task(write_answer(chat_id, question, pieces))
    writers.add(writer)
    writer.add_done_callback(writers.discard)
    writer.add_done_callback(lambda _: pieces.put_nowait(None))  # also if it fails: the reader must not wait forever

    async def read() -> AsyncIterator[str]:
        while (piece := await pieces.get()) is not None:
            yield piece
        writer.result()  # raises what the writer raised

    return read()


@app.post("/chats/{chat_id}/answers")
async def stream(chat_id: UUID, question: str) -> StreamingResponse:
    """Answer over SSE. The check runs before the response starts, so an unknown chat is answered with 404."""
    async with get_db() as session:
        await ConversationRepository(session).get(chat_id)
    events = (f"data: {json.dumps(piece)}\n\n" async for piece in answer_to(chat_id, question))
    return StreamingResponse(events, media_type="text/event-stream")


@app.websocket("/chats/{chat_id}")
async def talk(socket: WebSocket, chat_id: UUID) -> None:
    """Answer each text of a WebSocket. A session as a dependency would stay open as long as the socket."""
    await socket.accept()
    try:
        while True:
            async for piece in answer_to(chat_id, await socket.receive_text()):
                await socket.send_text(piece)
    except WebSocketDisconnect:
        return


@app.post("/chats/{chat_id}/close", status_code=202)
async def close(chat_id: UUID, tasks: BackgroundTasks) -> None:
    """Close a chat after the response."""
    tasks.add_task(close_chat, chat_id)


async def close_chat(chat_id: UUID) -> None:
    """Close a chat in a session of its own: a session of the request has ended when a background task runs."""
    async with get_db() as session:
        await ConversationRepository(session).close(chat_id)
