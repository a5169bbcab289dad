"""Answers that are stored while they are made: begun, extended, and complete or interrupted in the end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from src.database.models import MessageHistory
from src.database.repositories.message_rows import MessageRows
from src.database.statements import answers

__all__ = ["MessageStreaming"]


class MessageStreaming(MessageRows):
    """A message that was appended with `state="incomplete"`, until it is complete or interrupted; neither ends.

    Under the token of a turn the conversation's row is locked until the transaction ends, as by an append: a claim
    that was committed before wins, and a later one waits.
    """

    async def extend(self, message_id: str, content: str, *, offset: int, turn: int | None = None) -> MessageHistory:
        """Add a piece to the content of an incomplete message, once, however often it is sent.

        Its `token_count` is forgotten with the content that it counted.

        Args:
            message_id: The message's key.
            content: The piece; an empty one says that the writer is alive.
            offset: How many characters stand before the piece: the sum of `len` over all that was sent before it. What
                is stored of the piece already is not added again, also after the message's end. A surrogate pair that
                is split over two pieces counts two and is stored as one character; until its second half arrives,
                U+FFFD stands in its place.
            turn: The token of the turn that the caller holds, if it holds one: who has lost it adds nothing.

        Raises:
            NotFoundError: This tenant has no such message.
            StaleDataError: The message is not incomplete any more, a piece is missing before this one, another writer
                has written something else there, or another worker has claimed the turn since.
            ValueError: The offset is negative, beyond what a text can hold or not whole, or `turn` is no token.
        """
        return await answers.extend(self.session, message_id, content, offset=offset, turn=turn)

    async def mark_complete(
        self,
        message_id: str,
        *,
        parts: list[Any] | None = None,
        model: str | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        token_count: int | None = None,
        turn: int | None = None,
    ) -> MessageHistory:
        """End an incomplete message: it is whole, and those who follow get it. Once more with the same is no error.

        Args:
            message_id: The message's key.
            parts: What there is beside the content, its tool calls above all; None leaves it as it is, here and below.
            model: Which model answered.
            input_tokens: What it read.
            output_tokens: What it wrote.
            token_count: What the message counts in a window.
            turn: The token of the turn that the caller holds, if it holds one: who has lost it ends nothing.

        Raises:
            NotFoundError: This tenant has no such message.
            StaleDataError: It was interrupted, is complete with other values, or another worker has claimed the turn
                since.
            ValueError: A number of tokens is negative, `parts` is no list, or `turn` is no token but the turn itself.
        """
        values = {
            "parts": parts,
            "model": model,
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "token_count": token_count,
        }
        return await answers.end(self.session, message_id, "complete", values, turn)

    async def mark_interrupted(
        self,
        message_id: str,
        *,
        model: str | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        token_count: int | None = None,
        turn: int | None = None,
    ) -> MessageHistory:
        """End an incomplete message with what it has: nothing more will come. As `mark_complete` otherwise.

        Raises:
            NotFoundError: This tenant has no such message.
            StaleDataError: It is complete, was interrupted with other values, or another worker has claimed the turn
                since.
            ValueError: A number of tokens is negative, `parts` is no list, or `turn` is no token but the turn itself.
        """
        values = {
            "model": model,
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "token_count": token_count,
        }
        return await answers.end(self.session, message_id, "interrupted", values, turn)

    async def interrupt_stale(self, *, older_than: timedelta, limit: int = 100) -> list[MessageHistory]:
        """Interrupt messages that are incomplete and have not changed for longer than this: their writers have died.

        A worker calls it now and then for each tenant, until nothing comes back. Any number may at once: what
        another one has in hand, or its writer, is passed over. Time is the server's.

        Args:
            older_than: Longer than the longest silence between two pieces.
            limit: At most so many, 1 to 1000.

        Returns:
            What was interrupted, by conversation and `seq`.

        Raises:
            ValueError: The time is not positive or over 36,500 days, or the limit is not from 1 to 1000.
        """
        return await answers.interrupt_stale(self.session, older_than=older_than, limit=limit)
