"""StoredCheckpoints: the conformance suite of LangGraph, graphs, owners, concurrent writers, cancellation."""

from __future__ import annotations

import asyncio
import operator
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.test_utils import generate_checkpoint, generate_metadata
from langgraph.checkpoint.serde.base import CipherProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from pydantic import BaseModel
from sqlalchemy import URL, text

from src.config import Settings
from src.database import get_db, get_engine, tenant_context
from src.database.base import uuid7
from src.database.errors import NotFoundError
from src.database.integrations.langgraph import StoredCheckpoints
from src.database.models import Tenant, User
from src.database.repositories import UserRepository
from src.database.store import get_store
from tests.acceptance.counting_relay import relaying
from tests.conftest import SOCKETS
from tests.faults.cutting_relay import cutting


@dataclass
class Point:
    x: int


class Model(BaseModel):
    name: str


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    payload: Any
    answer: str


class AesGcm(CipherProtocol):
    """A cipher, as a service writes one."""

    def __init__(self) -> None:
        self._cipher = AESGCM(AESGCM.generate_key(128))

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        """Return the name of the cipher and the text."""
        nonce = os.urandom(12)
        return "aesgcm", nonce + self._cipher.encrypt(nonce, plaintext, None)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        """Return the text."""
        assert ciphername == "aesgcm"
        return self._cipher.decrypt(ciphertext[:12], ciphertext[12:], None)


def of(thread_id: str, **configurable: Any) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": "", **configurable}}


def compiled(checkpoints: StoredCheckpoints) -> Any:
    """Return a graph that logs two steps, the second of which waits for an answer of a person."""

    def ask(state: State) -> State:
        return {"log": [f"read {len(state.get('log', []))}"]}

    def decide(_state: State) -> State:
        return {"answer": interrupt("Really?"), "log": ["decided"]}

    builder: Any = StateGraph(State)
    builder.add_node("ask", ask)
    builder.add_node("decide", decide)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", "decide")
    builder.add_edge("decide", END)
    return builder.compile(checkpointer=checkpoints)


async def put(
    checkpoints: StoredCheckpoints, config: RunnableConfig, value: Any = "v", **metadata: Any
) -> RunnableConfig:
    version = checkpoints.get_next_version(None, None)
    checkpoint = generate_checkpoint(channel_values={"ch": value}, channel_versions={"ch": version})
    return await checkpoints.aput(config, checkpoint, generate_metadata(**metadata), {"ch": version})


async def listed(checkpoints: StoredCheckpoints, config: RunnableConfig | None, **options: Any) -> list[str]:
    return [one.checkpoint["id"] async for one in checkpoints.alist(config, **options)]


def id_of(config: RunnableConfig) -> str:
    return str(config["configurable"]["checkpoint_id"])


async def value_of(checkpoints: StoredCheckpoints, config: RunnableConfig) -> Any:
    found = await checkpoints.aget_tuple(config)
    return None if found is None else found.checkpoint["channel_values"]["ch"]


async def count(prefix: str = "") -> int:
    async with get_db() as session:
        counted = text("SELECT count(*) FROM state_entries WHERE namespace = 'langgraph' AND starts_with(key, :prefix)")
        return int(await session.scalar(counted, {"prefix": prefix}) or 0)


@pytest.fixture
def checkpoints(sdk_url: URL) -> StoredCheckpoints:
    return StoredCheckpoints(of_tenant=True)


@pytest.mark.parametrize("serde", [None, EncryptedSerializer(AesGcm())], ids=["plain", "encrypted"])
async def test_the_conformance_suite_passes_whole(user_id: UUID, serde: Any) -> None:
    async def saver() -> AsyncGenerator[StoredCheckpoints, None]:
        yield StoredCheckpoints(user_id, serde=serde)

    report = await validate(checkpointer_test(name="StoredCheckpoints")(saver))

    assert report.passed_all(), report.to_dict()
    assert len(report.results) == 8
    assert all(result.tests_passed and not result.tests_skipped for result in report.results.values())


async def test_a_graph_waits_for_a_person_and_continues_in_another_process(user_id: UUID) -> None:
    config: RunnableConfig = {"configurable": {"thread_id": "support", "user_id": str(user_id)}}
    waiting = await compiled(StoredCheckpoints()).ainvoke({"log": ["hello"]}, config)
    graph = compiled(StoredCheckpoints())
    state = await graph.aget_state(config)

    assert waiting["__interrupt__"][0].value == "Really?"
    assert (state.next, state.values["log"]) == (("decide",), ["hello", "read 1"])
    assert state.config["configurable"]["user_id"] == str(user_id)
    done = await graph.ainvoke(Command(resume="yes"), config)
    assert (done["log"], done["answer"]) == (["hello", "read 1", "decided"], "yes")
    assert (await graph.aget_state(config)).next == ()


async def test_a_run_continues_from_an_earlier_state_as_a_branch_of_its_own(user_id: UUID) -> None:
    graph, config = compiled(StoredCheckpoints()), {"configurable": {"thread_id": "t", "user_id": str(user_id)}}
    await graph.ainvoke({"log": ["hello"]}, config)
    await graph.ainvoke(Command(resume="yes"), config)
    history = [state async for state in graph.aget_state_history(config)]
    earlier = next(state for state in history if state.next == ("ask",))

    branch = await graph.aupdate_state(earlier.config, {"log": ["and more"]}, as_node="ask")
    await graph.ainvoke(None, branch)
    done = await graph.ainvoke(Command(resume="no"), config)

    assert [state.next for state in history] == [(), ("decide",), ("ask",), ("__start__",)]
    assert (done["log"], done["answer"]) == (["hello", "and more", "decided"], "no")
    assert (await graph.aget_state(history[0].config)).values == {
        "log": ["hello", "read 1", "decided"],
        "answer": "yes",
    }
    assert [state.values async for state in graph.aget_state_history(config, limit=1)] == [done_values(done)]


def done_values(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name != "__interrupt__"}


async def test_a_subgraph_has_a_namespace_of_its_own(checkpoints: StoredCheckpoints) -> None:
    def nested(state: State) -> State:
        return {"answer": interrupt("Inside?"), "log": ["inside"]}

    inner: Any = StateGraph(State)
    inner.add_node("nested", nested)
    inner.add_edge(START, "nested")
    outer: Any = StateGraph(State)
    outer.add_node("inner", inner.compile())
    outer.add_edge(START, "inner")
    graph = outer.compile(checkpointer=checkpoints)
    config: RunnableConfig = {"configurable": {"thread_id": "t"}}

    await graph.ainvoke({"log": ["outside"]}, config)
    state = await graph.aget_state(config, subgraphs=True)
    done = await graph.ainvoke(Command(resume="yes"), config)

    assert state.tasks[0].state.values == {"log": ["outside"]}
    assert done["answer"] == "yes"
    spaces = {one.config["configurable"]["checkpoint_ns"] async for one in checkpoints.alist(config)}
    assert len(spaces) == 2


async def test_many_threads_run_at_the_same_time(checkpoints: StoredCheckpoints) -> None:
    graph = compiled(checkpoints)

    async def run(number: int) -> Any:
        config = {"configurable": {"thread_id": f"t{number}"}}
        await graph.ainvoke({"log": [str(number)]}, config)
        return (await graph.ainvoke(Command(resume=f"yes {number}"), config))["answer"]

    assert await asyncio.gather(*map(run, range(10))) == [f"yes {number}" for number in range(10)]


VALUES: list[Any] = [
    "NUL \0 and \U0001f600" * 100,
    bytes(range(256)) * 10,
    {"deep": [1, 1.5, None, True, {"k": ["a", "b"]}]},
    Point(1),
    Model(name="n"),
    uuid4(),
    None,
    "",
    "short \0",
    HumanMessage("hello", id="1"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
async def test_a_value_comes_back_equal(checkpoints: StoredCheckpoints, value: Any) -> None:
    config = await put(checkpoints, of("t"), value)
    await checkpoints.aput_writes(config, [("ch", value)], "task")

    found = await checkpoints.aget_tuple(of("t"))
    assert found is not None
    assert found.checkpoint["channel_values"]["ch"] == value
    assert type(found.checkpoint["channel_values"]["ch"]) is type(value)
    assert found.pending_writes == [("task", "ch", value)]


async def test_a_lone_surrogate_is_replaced_as_the_serializer_does(checkpoints: StoredCheckpoints) -> None:
    config = await put(checkpoints, of("t"), ["a \ud800"])
    await checkpoints.aput_writes(config, [("ch\ud800", "\ud800")], "task \ud800", "path \ud800")

    found = await checkpoints.aget_tuple(of("t"))
    assert found is not None
    assert found.checkpoint["channel_values"]["ch"] == ["a ?"]
    assert found.pending_writes == [("task \ud800", "ch\ud800", "?")]


async def test_a_value_that_cannot_be_stored_is_refused_without_pickle(checkpoints: StoredCheckpoints) -> None:
    with pytest.raises(TypeError, match="serializable"):
        await put(checkpoints, of("t"), object())
    with pytest.raises(ValueError, match="value must be at most"):
        await put(checkpoints, of("t"), b"x" * (16 * 2**20))
    assert await count() == 0


async def test_a_large_value_is_stored_once_for_each_version(checkpoints: StoredCheckpoints) -> None:
    version = checkpoints.get_next_version(None, None)
    config = of("t")
    for step in range(3):
        checkpoint = generate_checkpoint(channel_values={"ch": ["x"] * 1000}, channel_versions={"ch": version})
        config = await checkpoints.aput(config, checkpoint, generate_metadata(), {"ch": version} if step == 0 else {})

    assert (await count("b/"), await count("c/")) == (1, 3)
    assert [one.checkpoint["channel_values"]["ch"] async for one in checkpoints.alist(config)] == [["x"] * 1000]
    assert [one.checkpoint["channel_values"]["ch"] async for one in checkpoints.alist(of("t"))] == [["x"] * 1000] * 3


THREADS = ["", "t", "t/", "/t", "c/t", "NUL \0", "\ud800", "x" * 10_000, "x" * 10_000 + "y", '["t"]', "ü%_"]


async def test_thread_ids_are_any_text_and_never_mixed_up(checkpoints: StoredCheckpoints) -> None:
    for thread_id in THREADS:
        for space in ("", "t", "a|b:1"):
            await put(checkpoints, of(thread_id, checkpoint_ns=space))

    for thread_id in THREADS:
        assert len(await listed(checkpoints, {"configurable": {"thread_id": thread_id}})) == 3
        found = await checkpoints.aget_tuple(of(thread_id, checkpoint_ns="t"))
        assert found is not None
        assert found.config["configurable"]["thread_id"] == thread_id
    await checkpoints.adelete_thread("t")
    assert len(await listed(checkpoints, None)) == 3 * (len(THREADS) - 1)


async def test_threads_of_tenants_and_users_are_apart(checkpoints: StoredCheckpoints, user_id: UUID) -> None:
    other_tenant = uuid7()
    async with get_db() as session:
        session.add(Tenant(id=other_tenant, slug=f"t{other_tenant.hex}", name="T"))
    other, _ = await get_store().get_or_create_user(2)
    users, elsewhere = StoredCheckpoints(), StoredCheckpoints(tenant_id=other_tenant, of_tenant=True)
    mine = await put(users, of("t", user_id=user_id), "mine")
    await put(users, of("t", user_id=str(other.id)), "other")
    await put(checkpoints, of("t"), "tenant")
    await put(elsewhere, of("t"), "elsewhere")

    assert await value_of(StoredCheckpoints(user_id), of("t")) == "mine"
    assert await value_of(users, of("t", user_id=str(other.id))) == "other"
    assert await value_of(checkpoints, of("t", user_id=user_id)) == "tenant", "whatever the config has"
    assert await value_of(elsewhere, of("t")) == "elsewhere"
    assert await value_of(StoredCheckpoints(other.id), of("t", checkpoint_id=id_of(mine))) is None
    with tenant_context(other_tenant):
        assert await value_of(checkpoints, of("t")) == "elsewhere"
        assert await value_of(users, of("t", user_id=user_id)) is None
        with pytest.raises(NotFoundError, match="no User"):
            await put(users, of("t", user_id=user_id))
    for one in (StoredCheckpoints(other.id), checkpoints):
        await one.adelete_thread("t")
        await one.aprune(["t"], strategy="delete")
    assert await value_of(StoredCheckpoints(user_id), of("t")) == "mine"


async def test_a_user_id_that_is_not_a_users_is_refused(checkpoints: StoredCheckpoints, user_id: UUID) -> None:
    with pytest.raises(ValueError, match=r"^user_id of the config must be the id of a User"):
        await StoredCheckpoints().aget_tuple(of("t", user_id="ada"))
    with pytest.raises(ValueError, match=r"^user_id of the config must be the user of this StoredCheckpoints"):
        await StoredCheckpoints(user_id).aget_tuple(of("t", user_id=str(uuid7())))
    with pytest.raises(ValueError, match=r"^checkpoint_id must be 1 to 128 characters without a slash"):
        await checkpoints.aget_tuple(of("t", checkpoint_id="a/b"))
    with pytest.raises(ValueError, match=r"^user_id must be a uuid\.UUID"):
        StoredCheckpoints("ada")  # type: ignore[arg-type]


async def test_the_threads_of_a_user_are_exported_and_erased_and_end_with_the_user(user_id: UUID) -> None:
    checkpoints = StoredCheckpoints(user_id)
    config = await put(checkpoints, of("t"), ["secret"] * 100)
    await checkpoints.aput_writes(config, [("ch", "w")], "task")
    async with get_db() as session:
        exported = [row async for row in UserRepository(session).export(user_id) if row["table"] == "state_entries"]
        await UserRepository(session).delete(user_id)

    assert len(exported) == 3
    assert await checkpoints.aget_tuple(of("t")) is None
    with pytest.raises(NotFoundError, match="no User"):
        await put(checkpoints, of("t"))
    async with get_db() as session:
        await UserRepository(session).restore(user_id)
        assert (await UserRepository(session).erase(user_id))["state_entries"] == 3


async def test_ordinary_writes_are_kept_and_special_writes_are_replaced(checkpoints: StoredCheckpoints) -> None:
    config = await put(checkpoints, of("t"))
    await checkpoints.aput_writes(config, [("a", 1), ("b", 2)], "task", "path")
    await checkpoints.aput_writes(config, [("a", "later"), ("b", "later"), ("c", 3)], "task", "path")
    for error in ("first", "second"):
        await checkpoints.aput_writes(config, [(ERROR, error), (INTERRUPT, error)], "task", "path")
    await checkpoints.aput_writes(config, [(RESUME, "yes")], "task", "path")
    await checkpoints.aput_writes(config, [("a", 0)], "another", "a path before")
    await checkpoints.aput_writes(config, [], "none")

    found = await checkpoints.aget_tuple(config)
    assert found is not None
    assert found.pending_writes == [
        ("another", "a", 0),
        ("task", RESUME, "yes"),
        ("task", INTERRUPT, "second"),
        ("task", ERROR, "second"),
        ("task", "a", 1),
        ("task", "b", 2),
        ("task", "c", 3),
    ]


async def test_concurrent_writers_of_one_thread_lose_nothing(checkpoints: StoredCheckpoints) -> None:
    config = await put(checkpoints, of("t"))
    await asyncio.gather(
        *(put(checkpoints, config, [number]) for number in range(8)),
        *(checkpoints.aput_writes(config, [("ch", number)] * (number + 1), "task") for number in range(8)),
        *(checkpoints.aput_writes(config, [("ch", number)], f"task{number}") for number in range(8)),
    )

    found = await checkpoints.aget_tuple(config)
    assert found is not None
    assert found.pending_writes is not None
    assert len(found.pending_writes) == 8 + 8
    assert len(await listed(checkpoints, of("t"))) == 9


async def test_pages_are_read_newest_first_across_namespaces(checkpoints: StoredCheckpoints) -> None:
    ids = [id_of(await put(checkpoints, of("t", checkpoint_ns=str(step % 2)), step=step)) for step in range(120)]
    thread: RunnableConfig = {"configurable": {"thread_id": "t"}}
    before = of("t", checkpoint_id=ids[60])

    assert await listed(checkpoints, thread) == ids[::-1]
    assert await listed(checkpoints, None, limit=3) == ids[:-4:-1]
    assert await listed(checkpoints, of("t", checkpoint_ns="1")) == ids[::-1][::2]
    assert await listed(checkpoints, of("t", checkpoint_ns="1"), before=before, limit=2) == [ids[59], ids[57]]
    assert await listed(checkpoints, thread, before=before, limit=2) == [ids[59], ids[58]]
    assert await listed(checkpoints, thread, filter={"step": 7, "source": "loop"}) == [ids[7]]
    assert await listed(checkpoints, thread, filter={"missing": None}) == []
    assert await listed(checkpoints, of("t", checkpoint_ns="1"), limit=0) == []
    with pytest.raises(ValueError, match="limit must be at least 0"):
        await listed(checkpoints, thread, limit=-1)


async def test_a_generator_that_is_left_early_changes_no_context(checkpoints: StoredCheckpoints) -> None:
    tenant = uuid7()
    elsewhere = StoredCheckpoints(tenant_id=tenant, of_tenant=True)
    async with get_db() as session:
        session.add(Tenant(id=tenant, slug=f"t{tenant.hex}", name="T"))
    for _ in range(2):
        await put(elsewhere, of("t"))

    async for _ in elsewhere.alist(of("t")):
        assert await checkpoints.aget_tuple(of("t")) is None
        break
    assert await checkpoints.aget_tuple(of("t")) is None


async def test_pruning_deletes_what_no_kept_checkpoint_uses(checkpoints: StoredCheckpoints) -> None:
    config = of("t")
    for number in range(3):
        config = await put(checkpoints, config, [number])
        await checkpoints.aput_writes(config, [("ch", number)], "task")
    other = await put(checkpoints, of("other"), ["other"])

    await checkpoints.aprune(["t", "missing"])

    found = await checkpoints.aget_tuple(of("t"))
    assert found is not None
    assert (found.checkpoint["channel_values"], found.parent_config) == ({"ch": [2]}, None)
    assert found.pending_writes == [("task", "ch", 2)]
    assert await count() == 3 + 2
    assert await value_of(checkpoints, other) == ["other"]
    with pytest.raises(ValueError, match="strategy must be"):
        await checkpoints.aprune(["t"], strategy="all")
    await put(checkpoints, config, [3], counters_since_delta_snapshot={"ch": (1, 1)})
    with pytest.raises(NotImplementedError, match="DeltaChannel"):
        await checkpoints.aprune(["t"])


async def test_a_read_beside_pruning_returns_a_whole_checkpoint_or_none(checkpoints: StoredCheckpoints) -> None:
    for number in range(20):
        old = await put(checkpoints, of("t"), [number, 1])
        await put(checkpoints, old, [number, 2])
        found, listed, _ = await asyncio.gather(
            checkpoints.aget_tuple(old), all_of(checkpoints.alist(of("t"))), checkpoints.aprune(["t"])
        )
        for one in [*listed, *([found] if found else [])]:
            assert one.checkpoint["channel_values"]["ch"]
        latest = await checkpoints.aget_tuple(of("t"))
        assert latest is not None
        assert latest.checkpoint["channel_values"]["ch"] == [number, 2]


async def all_of(tuples: AsyncIterator[CheckpointTuple]) -> list[CheckpointTuple]:
    return [one async for one in tuples]


async def test_wrong_arguments_change_nothing(checkpoints: StoredCheckpoints) -> None:
    config = await put(checkpoints, of("t"), [1])
    number: Any = 1
    calls: Any = (
        (lambda: checkpoints.aprune("t"), "thread_ids must be a list of strings, got a str"),
        (lambda: checkpoints.adelete_for_runs("run"), "run_ids must be a list of strings, got a str"),
        (lambda: checkpoints.adelete_thread(number), "thread_id must be a string, got a int"),
        (lambda: checkpoints.aprune(["t", number], strategy="delete"), "thread_id must be a string, got a int"),
        (lambda: checkpoints.acopy_thread("t", number), "thread_id must be a string, got a int"),
        (lambda: checkpoints.aget_tuple(of(number)), "thread_id must be a string, got a int"),
        (lambda: checkpoints.aprune(["t"], strategy="all"), "strategy must be 'keep_latest' or 'delete', got 'all'"),
        (lambda: checkpoints.aput_writes(of("t"), [("ch", 1)], "task"), "the config must have a checkpoint_id"),
    )
    for call, expected in calls:
        with pytest.raises(ValueError, match=expected):
            await call()
    found = await checkpoints.aget_tuple(of("t"))
    assert found is not None
    assert (found.config, found.pending_writes) == (config, [])


async def test_a_copy_is_independent_and_the_runs_of_a_thread_can_be_deleted(checkpoints: StoredCheckpoints) -> None:
    config = of("t")
    for number in range(2):
        config = await put(checkpoints, config, [number], run_id=f"run{number}")
        await checkpoints.aput_writes(config, [("ch", number)], "task")
    await checkpoints.acopy_thread("t", "copy")
    await checkpoints.acopy_thread("t", "t")
    await checkpoints.adelete_thread("t")

    copies = [one async for one in checkpoints.alist(of("copy"))]
    assert [one.checkpoint["channel_values"]["ch"] for one in copies] == [[1], [0]]
    assert [one.config["configurable"]["thread_id"] for one in copies] == ["copy", "copy"]
    assert await count() == 6
    await checkpoints.adelete_for_runs(["run1", "none"])
    assert (await value_of(checkpoints, of("copy")), await count()) == ([0], 3)


async def test_a_cancelled_call_has_ended_when_the_caller_continues(user_id: UUID) -> None:
    checkpoints = StoredCheckpoints(user_id)
    async with get_db() as session:
        await session.get(User, user_id, with_for_update=True)  # the foreign key of an entry waits for this lock
        putting = asyncio.create_task(put(checkpoints, of("t"), ["x"]))
        await asyncio.sleep(0.1)
        putting.cancel()
        await asyncio.wait([putting], timeout=0.1)
        assert not putting.done()
    await asyncio.wait([putting])

    assert putting.cancelled()
    assert await value_of(checkpoints, of("t")) == ["x"]


async def test_a_write_is_sent_again_although_the_answer_of_the_server_is_lost(
    sdk_url: URL, use_database: Callable[..., Settings]
) -> None:
    async with cutting(SOCKETS) as relay:
        use_database(relay.lead_to(sdk_url, pool_max="1"))
        checkpoints = StoredCheckpoints(of_tenant=True)
        config = await put(checkpoints, of("t"), ["first"])
        await checkpoints.aput_writes(config, [("ch", 1)], "first")
        relay.cut(1, "after", of=b"BIND")
        config = await put(checkpoints, config, ["second"])
        relay.cut(1, "after", of=b"BIND")
        await checkpoints.aput_writes(config, [("ch", 2)], "second")

        found = await checkpoints.aget_tuple(of("t"))
        await get_engine("store").dispose()
    assert relay.made == 2
    assert found is not None
    assert (found.checkpoint["channel_values"], found.pending_writes) == ({"ch": ["second"]}, [("second", "ch", 2)])


async def test_a_write_is_one_round_trip(sdk_url: URL, use_database: Callable[..., Settings]) -> None:
    trips: list[int] = []
    async with relaying(SOCKETS) as relay:
        use_database(relay.lead_to(sdk_url.update_query_dict({"pool_max": "1"})))
        checkpoints = StoredCheckpoints(of_tenant=True)
        for number in range(2):  # the first calls prepare the statements
            calls: list[Callable[[], Any]] = [
                lambda: put(checkpoints, of("t"), ["large"]),
                lambda: checkpoints.aput_writes(of("t", checkpoint_id="1"), [("ch", 1), ("b", 2)], str(number)),  # noqa: B023 - called in the loop
                lambda: checkpoints.aget_tuple(of("t")),
            ]
            trips.clear()
            for call in calls:
                relay.sent.clear()
                await call()
                trips.append(len(relay.sent))
        await get_engine("store").dispose()

    assert trips == [1, 1, 3], "read: the checkpoint, its channels, its writes"


async def test_a_channel_of_deltas_is_rebuilt_and_not_pruned(checkpoints: StoredCheckpoints) -> None:
    class Deltas(TypedDict):
        log: Annotated[list[str], DeltaChannel(lambda old, many: [*old, *(one for new in many for one in new)])]

    builder: Any = StateGraph(Deltas)
    builder.add_node("say", lambda state: {"log": [f"after {len(state['log'])}"]})
    builder.add_edge(START, "say")
    graph = builder.compile(checkpointer=checkpoints)
    config: RunnableConfig = {"configurable": {"thread_id": "t"}}
    for _ in range(3):
        await graph.ainvoke({"log": ["hello"]}, config)

    log = [one for number in (1, 3, 5) for one in ("hello", f"after {number}")]
    assert (await graph.aget_state(config)).values["log"] == log
    with pytest.raises(NotImplementedError, match="DeltaChannel"):
        await checkpoints.aprune(["t"])
    await checkpoints.acopy_thread("t", "copy")
    assert (await graph.aget_state({"configurable": {"thread_id": "copy"}})).values["log"] == log


def test_the_synchronous_methods_name_the_asynchronous_ones(checkpoints: StoredCheckpoints) -> None:
    config = of("t")
    calls: dict[str, Any] = {
        "get_tuple": lambda: checkpoints.get_tuple(config),
        "list": lambda: checkpoints.list(config, limit=1),
        "put": lambda: checkpoints.put(config, generate_checkpoint(), {}, {}),
        "put_writes": lambda: checkpoints.put_writes(config, [], "task"),
        "delete_thread": lambda: checkpoints.delete_thread("t"),
        "delete_for_runs": lambda: checkpoints.delete_for_runs([]),
        "copy_thread": lambda: checkpoints.copy_thread("t", "u"),
        "prune": lambda: checkpoints.prune([], strategy="delete"),
    }
    for name, call in calls.items():
        with pytest.raises(RuntimeError, match=rf"await checkpointer\.a{name}\("):
            call()
