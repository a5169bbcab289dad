"""A chain of LangChain that remembers its conversation. The model is a fake, which counts what it reads.

python examples/langchain_history.py
"""

import asyncio

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableLambda

from src.database.integrations.langchain import StoredChatMessageHistory
from src.database.store import get_store


def count(messages: list[BaseMessage]) -> AIMessage:
    """Return an answer, as a model does."""
    return AIMessage(f"I have read {len(messages)} messages.")


async def main() -> None:
    """Ask twice; the second question is asked with the first one and its answer."""
    user, _ = await get_store().get_or_create_user(42)
    history = StoredChatMessageHistory("support-7", user.id)
    model = RunnableLambda(count)
    for text in ("Hello!", "Do you remember me?"):
        question = HumanMessage(text)
        answer = await model.ainvoke([*await history.aget_messages(), question])
        await history.aadd_messages([question, answer])
        print(answer.text)


if __name__ == "__main__":
    asyncio.run(main())
