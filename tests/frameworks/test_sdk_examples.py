"""The examples of agent SDKs: each runs against a database, and is short."""

from __future__ import annotations

import runpy

import pytest
from sqlalchemy import URL

from tests.acceptance.documented import ROOT

PRINTED = {
    "agent_sdks_together": ["I have read 1 items.", "I have read 2 messages.", "Goodbye, after 5 messages."],
    "google_adk_agent": ["I have read 1 contents.", "I have read 3 contents."],
    "langchain_history": ["I have read 1 messages.", "I have read 3 messages."],
    "langgraph_checkpoints": ["Order tea?", "tea: yes"],
    "openai_agents_memory": ["I have read 1 items.", "I have read 3 items."],
    "pydantic_ai_agent": ["['I see 1 messages.', 'I see 3 messages.']"],
}


@pytest.mark.parametrize("name", PRINTED)
async def test_an_example_remembers_the_conversation(
    name: str, sdk_url: URL, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ROOT / "examples" / f"{name}.py"
    await runpy.run_path(str(path))["main"]()

    assert capsys.readouterr().out.splitlines() == PRINTED[name]
    assert len(path.read_text().splitlines()) < 40
