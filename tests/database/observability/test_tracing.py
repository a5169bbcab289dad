from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import code_attributes, db_attributes, error_attributes
from opentelemetry.semconv.attributes import server_attributes
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import text

from src.database import AsyncSession, engine, get_db, observability, tenant_context
from src.database.errors import DatabaseError
from src.database.models import User
from src.database.repositories import NewMessage, UserRepository
from src.database.store import get_store
from tests.database.observability.conftest import Use

CANARY = "the-canary-said-this"
KNOWN = {
    value
    for module in (code_attributes, db_attributes, error_attributes, server_attributes)
    for name, value in vars(module).items()
    if name.isupper()
}


@pytest.fixture
def provider() -> TracerProvider:
    return TracerProvider()


@pytest.fixture
def spans(provider: TracerProvider) -> Iterator[InMemorySpanExporter]:
    """The spans that have ended."""
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    observability.use_tracing(provider)
    yield exporter
    observability.use_settings_alone()
    provider.shutdown()


def of(span: ReadableSpan, name: str) -> object:
    return (span.attributes or {}).get(name)


async def test_a_session_is_a_span_and_each_statement_one_below_it(
    use: Use, spans: InMemorySpanExporter, provider: TracerProvider, tenant: UUID
) -> None:
    use()
    with provider.get_tracer("service").start_as_current_span("handle"):
        async with get_db() as session:
            await UserRepository(session).get_by_telegram_id(1)
    statement, unit, above = spans.get_finished_spans()

    assert statement.name == "UserRepository.get_by_telegram_id"
    assert unit.name.endswith("test_a_session_is_a_span_and_each_statement_one_below_it")
    assert [one.parent for one in (statement, unit)] == [unit.context, above.context]
    assert (statement.kind, unit.kind) == (SpanKind.CLIENT, SpanKind.INTERNAL)
    assert {of(one, "thea.tenant.id") for one in (statement, unit)} == {str(tenant)}
    assert of(statement, db_attributes.DB_SYSTEM_NAME) == "postgresql"
    assert of(statement, db_attributes.DB_NAMESPACE) == engine.url.database
    assert of(statement, db_attributes.DB_OPERATION_NAME) == "SELECT"
    assert of(statement, db_attributes.DB_RESPONSE_RETURNED_ROWS) == 0
    assert of(unit, "thea.transaction.outcome") == "committed"


async def test_attributes_are_those_of_the_semantic_conventions(use: Use, spans: InMemorySpanExporter) -> None:
    use()
    with pytest.raises(DatabaseError):
        async with get_db() as session:
            await session.execute(text("SELECT 1 / 0"))
    await get_store().user_by_telegram_id(1)

    used = {name for span in spans.get_finished_spans() for name in span.attributes or {}}
    assert {name for name in used if not name.startswith("thea.")} <= KNOWN


async def test_the_stores_call_is_a_span_with_a_statement(use: Use, spans: InMemorySpanExporter, tenant: UUID) -> None:
    use()
    with tenant_context(tenant):
        await get_store().user_by_telegram_id(1)
    statement, unit = spans.get_finished_spans()

    assert statement.name == "Store.user_by_telegram_id"
    assert statement.parent == unit.context
    assert of(statement, "thea.tenant.id") == of(unit, "thea.tenant.id") == str(tenant)


async def test_an_error_has_its_class_and_code_and_no_data(use: Use, spans: InMemorySpanExporter) -> None:
    use()
    with pytest.raises(DatabaseError):
        await _send_text_as_a_number()
    await get_store().turn(1, "telegram", CANARY, [NewMessage(message_id="1", role="user", content=CANARY)])
    finished = spans.get_finished_spans()
    [failed] = [span for span in finished if not span.status.is_ok]

    assert of(failed, error_attributes.ERROR_TYPE) == "DatabaseError"
    assert of(failed, db_attributes.DB_RESPONSE_STATUS_CODE) == "22P02"
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, None)
    assert "rolled back" in [of(span, "thea.transaction.outcome") for span in finished]
    assert CANARY not in "".join(span.to_json() for span in finished)


async def test_a_statement_with_an_unknown_verb_is_other(use: Use, spans: InMemorySpanExporter) -> None:
    use()
    async with get_db() as session:
        await session.execute(text(f"/* {CANARY} */ SELECT 1"))
    [*_, statement, _unit] = spans.get_finished_spans()

    assert of(statement, db_attributes.DB_OPERATION_NAME) == "OTHER"


async def test_a_statement_outside_of_a_unit_of_work_has_no_parent(use: Use, spans: InMemorySpanExporter) -> None:
    use()
    async with engine.connect() as connection:
        async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
            await session.execute(text("SELECT 1"))
        spans.clear()
        await connection.execute(text("SELECT 1"))
    [statement] = spans.get_finished_spans()

    assert statement.parent is None


async def _send_text_as_a_number() -> None:
    async with get_db() as session:
        session.add(User(display_name=CANARY, username=CANARY))
        await session.execute(text(f"SELECT '{CANARY}'::integer"))
