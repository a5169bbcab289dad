"""Traces for OpenTelemetry: a span for each unit of work and statement, with the semantic conventions for databases."""

from __future__ import annotations

from typing import Final

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider
from opentelemetry.util.types import AttributeValue

from src.database.observability.observers import Call, Observer, Source, Unit, name_of_error

TENANT: Final = "thea.tenant.id"
POOL: Final = "db.client.connection.pool.name"
_VERBS: Final = {
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "MERGE",
    "WITH",
    "SET",
    "SAVEPOINT",
    "RELEASE",
    "ROLLBACK",
    "COPY",
}


class Tracing(Observer):
    """Creates spans with the operation, its duration and its tenant, without SQL text, parameters or error messages.

    Args:
        provider: The provider of the spans; by default OpenTelemetry's own, as the service has set it up.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer: Tracer = trace.get_tracer("thea-database", tracer_provider=provider)

    def began(self, unit: Unit) -> None:
        assert unit.source is not None  # noqa: S101 - a unit that has begun has a source
        origin = unit.origin
        attributes = {**_where(unit.source), "code.function.name": origin.function}
        unit.span = self._tracer.start_span(f"unit of work {origin.function}", attributes=attributes)

    def ended(self, unit: Unit) -> None:
        span: Span | None = unit.span
        if span is None:
            return
        if unit.tenant is not None:
            span.set_attribute(TENANT, str(unit.tenant))
        span.set_attribute("thea.transaction.outcome", "committed" if unit.is_committed else "rolled back")
        span.end()

    def sent(self, call: Call) -> None:
        above = None if call.unit is None or call.unit.span is None else trace.set_span_in_context(call.unit.span)
        attributes = {
            **_where(call.source),
            "db.operation.name": _verb(call.sql),
            "db.query.summary": call.origin.name,
            "code.function.name": call.origin.function,
        }
        if (tenant := call.tenant) is not None:
            attributes[TENANT] = str(tenant)
        call.span = self._tracer.start_span(call.origin.name, above, kind=SpanKind.CLIENT, attributes=attributes)

    def answered(self, call: Call) -> None:
        span: Span | None = call.span
        if span is None:
            return
        if call.rows is not None:
            span.set_attribute("db.response.returned_rows", call.rows)
        if call.error is not None:
            span.set_attribute("error.type", name_of_error(call.error))
            if isinstance(sqlstate := getattr(call.error, "sqlstate", None), str):
                span.set_attribute("db.response.status_code", sqlstate)
            span.set_status(Status(StatusCode.ERROR))
        span.end()


def _where(source: Source) -> dict[str, AttributeValue]:
    url = source.engine.url
    known = {"db.namespace": url.database, "server.address": url.host, "server.port": url.port, POOL: source.name}
    return {"db.system.name": "postgresql"} | {name: value for name, value in known.items() if value is not None}


def _verb(sql: str) -> str:
    verb, *_ = sql.split(maxsplit=1) or [""]
    return verb.upper() if verb.upper() in _VERBS else "OTHER"  # text of the service can begin with any word
