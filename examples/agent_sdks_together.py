"""A conversation that begins in the OpenAI Agents SDK, and continues in pydantic-ai and LangChain, with fake models."""

import asyncio

from agents import Agent as OpenAIAgent
from agents import Runner, set_tracing_disabled
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage
from pydantic_ai import Agent, ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from examples.openai_agents_memory import CountingModel
from src.database.integrations.langchain import StoredChatMessageHistory
from src.database.integrations.openai_agents import StoredSession
from src.database.integrations.pydantic_ai import StoredMessageHistory
from src.database.store import get_store


def model(messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
    """Return an answer with the number of the earlier messages."""
    return ModelResponse(parts=[TextPart(f"I have read {len(messages) - 1} messages.")])


async def main() -> None:
    """Ask a question in each SDK."""
    set_tracing_disabled(True)
    conversation = ("support-7", (await get_store().get_or_create_user(42))[0].id)
    agent, session = OpenAIAgent(name="Support", model=CountingModel()), StoredSession(*conversation)
    print((await Runner.run(agent, "Hello!", session=session)).final_output)
    history = StoredMessageHistory(*conversation)
    result = await Agent(FunctionModel(model)).run("What did I say?", message_history=await history.load())
    await history.add(result.new_messages())
    print(result.output)
    messages = [*await StoredChatMessageHistory(*conversation).aget_messages(), HumanMessage("Bye!")]
    print((await FakeListChatModel(responses=[f"Goodbye, after {len(messages)} messages."]).ainvoke(messages)).text)


if __name__ == "__main__":
    asyncio.run(main())
