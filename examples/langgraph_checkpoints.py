"""A graph of LangGraph that waits for a person, and continues in another process. The model is a fake.

python examples/langgraph_checkpoints.py
"""

import asyncio
from typing import TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from src.database.integrations.langgraph import StoredCheckpoints
from src.database.store import get_store


class Order(TypedDict):
    """The state of the graph."""

    text: str


def confirm(state: Order) -> Order:
    """Ask a person; LangGraph stores the state and ends the run until the answer comes."""
    return {"text": f"{state['text']}: {interrupt('Order ' + state['text'] + '?')}"}


async def main() -> None:
    """Start a run, and continue it with another checkpointer, as another process does."""
    user, _ = await get_store().get_or_create_user(42)
    config: RunnableConfig = {"configurable": {"thread_id": "order-7", "user_id": str(user.id)}}
    builder = StateGraph(Order).add_node(confirm).add_edge(START, "confirm")
    waiting = await builder.compile(checkpointer=StoredCheckpoints()).ainvoke({"text": "tea"}, config)
    print(waiting["__interrupt__"][0].value)
    print((await builder.compile(checkpointer=StoredCheckpoints()).ainvoke(Command(resume="yes"), config))["text"])


if __name__ == "__main__":
    asyncio.run(main())
