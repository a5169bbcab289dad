"""An agent of Google's ADK that remembers its conversation. The model is a fake, which counts what it reads.

python examples/google_adk_agent.py
"""

import asyncio
from typing import Any

from google.adk.agents import LlmAgent
from google.adk.models import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.runners import Runner
from google.genai.types import Content, Part

from src.database.integrations.google_adk import StoredSessionService


class CountingModel(BaseLlm):
    """Answers with the number of the contents that it gets."""

    async def generate_content_async(self, llm_request: LlmRequest, stream: bool = False) -> Any:
        """Yield the answer."""
        answer = Part(text=f"I have read {len(llm_request.contents)} contents.")
        yield LlmResponse(content=Content(role="model", parts=[answer]))


async def main() -> None:
    """Ask twice; the second question is asked with the first one and its answer."""
    agent, service = LlmAgent(name="support", model=CountingModel(model="fake")), StoredSessionService(provider="web")
    runner = Runner(app_name="support", agent=agent, session_service=service, auto_create_session=True)
    for text in ("Hello!", "Do you remember me?"):
        question = Content(role="user", parts=[Part(text=text)])
        async for event in runner.run_async(user_id="ada", session_id="support-7", new_message=question):
            print(*(part.text for part in event.message.parts))


if __name__ == "__main__":
    asyncio.run(main())
