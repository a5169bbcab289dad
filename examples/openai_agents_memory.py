"""An agent of the OpenAI Agents SDK that remembers its conversation. The model is a fake, which counts what it reads.

python examples/openai_agents_memory.py
"""

import asyncio
from typing import Any

from agents import Agent, Model, ModelResponse, Runner, Usage, set_tracing_disabled
from openai.types.responses import ResponseOutputMessage, ResponseOutputText

from src.database.integrations.openai_agents import StoredSession
from src.database.store import get_store


class CountingModel(Model):
    """A model that answers with the number of items that it gets."""

    async def get_response(self, system_instructions: Any, input: Any, *_: Any, **__: Any) -> ModelResponse:  # noqa: A002 - the SDK's name
        """Return an answer (the method of the SDK's models)."""
        text = ResponseOutputText(type="output_text", text=f"I have read {len(input)} items.", annotations=[])
        answer = ResponseOutputMessage(id="1", type="message", role="assistant", status="completed", content=[text])
        return ModelResponse(output=[answer], usage=Usage(), response_id=None)

    stream_response: Any = None


async def main() -> None:
    """Ask twice; the second question is asked with the first one and its answer."""
    set_tracing_disabled(True)
    user, _ = await get_store().get_or_create_user(42)
    session = StoredSession("support-7", user.id)
    for question in ("Hello!", "Do you remember me?"):
        result = await Runner.run(Agent(name="Support", model=CountingModel()), question, session=session)
        print(result.final_output)


if __name__ == "__main__":
    asyncio.run(main())
