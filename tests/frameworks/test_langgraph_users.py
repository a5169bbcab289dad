"""The users of LangGraph's threads: of the config, also for subgraphs, and refused if there is none."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from src.database.integrations.langgraph import StoredCheckpoints
from tests.frameworks.test_langgraph import State, listed, of, put


async def test_a_config_without_a_user_is_refused(user_id: UUID) -> None:
    users = StoredCheckpoints()
    await put(users, of("t", user_id=user_id), "mine")
    calls: list[Callable[[], Any]] = [
        lambda: users.aget_tuple(of("t")),
        lambda: put(users, of("t")),
        lambda: listed(users, of("t")),
        lambda: listed(users, None),
        lambda: users.adelete_thread("t"),
        lambda: users.acopy_thread("t", "u"),
        lambda: users.adelete_for_runs(["r"]),
        lambda: users.aprune(["t"]),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"must have a user_id, .* StoredCheckpoints\(user.id\)"):
            await call()
    with pytest.raises(ValueError, match="of user_id or of the tenant, got both"):
        StoredCheckpoints(user_id, of_tenant=True)


async def test_the_state_of_a_subgraph_is_that_of_the_user_of_the_config(
    user_id: UUID,
) -> None:
    checkpoints = StoredCheckpoints(of_tenant=True)

    def ask(_state: Any) -> Any:
        return {"log": [interrupt("q")]}

    def graph(saver: StoredCheckpoints) -> Any:
        state: Any = StateGraph(State)
        inner = state.add_node("ask", ask).add_edge(START, "ask").compile(checkpointer=True)
        return StateGraph(State).add_node("sub", inner).add_edge(START, "sub").compile(checkpointer=saver)

    config: Any = {"configurable": {"thread_id": "t", "user_id": str(user_id)}}
    await graph(checkpoints).ainvoke({"log": ["the tenant's"]}, {"configurable": {"thread_id": "t"}})
    mine = graph(StoredCheckpoints())
    await mine.ainvoke({"log": ["mine"]}, config)

    [task] = (await mine.aget_state(config, subgraphs=True)).tasks
    assert task.state.values == {"log": ["mine"]}
    await mine.aupdate_state(task.state.config, {"log": ["more"]})
    [task] = (await mine.aget_state(config, subgraphs=True)).tasks
    assert task.state.values == {"log": ["mine", "more"]}
    [theirs] = (await graph(checkpoints).aget_state({"configurable": {"thread_id": "t"}}, subgraphs=True)).tasks
    assert theirs.state.values == {"log": ["the tenant's"]}
    [latest, *_] = [one async for one in mine.aget_state_history(config)]
    assert copy.deepcopy(latest.config)["configurable"]["thread_id"].user_id == str(user_id)
    without_user = json.loads(json.dumps({"configurable": {"thread_id": latest.config["configurable"]["thread_id"]}}))
    with pytest.raises(ValueError, match="must have a user_id"):
        await mine.aget_state(without_user)
