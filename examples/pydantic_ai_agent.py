"""An agent of pydantic-ai that remembers its conversation. The model is a fake, which counts what it reads."""

import asyncio
from contextlib import suppress

from pydantic_ai import Agent, ModelMessage, ModelResponse, TextPart
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import ConversationConflict
from pydantic_ai.models.function import AgentInfo, FunctionModel

from src.database.integrations.pydantic_ai import StoredConversations
from src.database.store import get_store


def model(messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
    """Return the number of messages so far, as a language model would return an answer."""
    return ModelResponse(parts=[TextPart(f"I see {len(messages)} messages.")])


async def answer(store: StoredConversations, question: str) -> str:
    """Run the agent on the stored conversation, again if another worker has saved the conversation meanwhile."""
    for _ in range(5):
        conversation = await store.load("rome") or Conversation(conversation_id="rome")
        result = await Agent(FunctionModel(model)).run(question, conversation=conversation)
        with suppress(ConversationConflict):
            await store.save(result)
            return result.output
    raise RuntimeError("each save was a conflict: the id may be that of another user's conversation")


async def main() -> None:
    """Answer two questions of one conversation at the same time."""
    user, _ = await get_store().get_or_create_user(42)
    store = StoredConversations(user.id)
    print(sorted(await asyncio.gather(answer(store, "Where is it?"), answer(store, "When is it?"))))


if __name__ == "__main__":
    asyncio.run(main())
