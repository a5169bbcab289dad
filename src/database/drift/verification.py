"""Verify that the database is what the code expects: each difference, with the statements that repair it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from sqlalchemy.pool import NullPool

from src.config import Settings, get_logger
from src.config.profiles import Purpose
from src.database.drift.catalog import Catalog, compared_facts, read_catalog
from src.database.drift.compare import compare
from src.database.drift.difference import Difference, Severity, Statements
from src.database.drift.scratch import scratch_database
from src.database.drift.snapshot import load_snapshot
from src.database.errors import ConfigurationError, DatabaseError, SchemaDriftError
from src.database.migrate import OTHER_DATABASE, Revision, compare_revisions, upgrade
from src.database.session import create_engine, resolve_target

_State = Literal["empty", "foreign", "unstamped", "behind", "newest", "newer"]

_LATER: Final = ("-- a newer release's migrations may have made it so: install that release, or leave it",)
_OF_A_LATER_MIGRATION: Final = (
    "-- a later migration made it so, and the schema is past the revision that is recorded:",
    "-- `thea-db verify` without --scratch names the revision to stamp",
)
_SHOWN_IN_ERROR: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaReport:
    """The result of `verify`.

    Args:
        database: The target, without its password.
        schema: The schema that was read; empty if the role may use none.
        revision: The revision of the database; None: it has none, or the role may not read it.
        head: The newest revision of this installation.
        compared_with: What the database was compared with.
        differences: Each difference, in an order in which the remedies can be run.
    """

    database: str
    schema: str
    revision: str | None
    head: str
    compared_with: Literal["snapshot", "scratch database", "nothing"]
    differences: tuple[Difference, ...]

    @property
    def is_sound(self) -> bool:
        """True if there is no difference."""
        return not self.differences

    @property
    def errors(self) -> tuple[Difference, ...]:
        """The differences that can make the code's statements fail, or that open an isolation layer."""
        return tuple(difference for difference in self.differences if difference.severity == "error")

    def document(self) -> dict[str, Any]:
        """Return the report as a JSON document."""
        differences = [{"summary": str(one), **asdict(one), "remedy": list(one.remedy)} for one in self.differences]
        return {**asdict(self), "is_sound": self.is_sound, "differences": differences}


async def verify(settings: Settings, *, scratch: bool = False) -> SchemaReport:
    """Compare the database with what the migrations build, as the application's role; nothing is written to it.

    Args:
        settings: The database.
        scratch: Build the expected schema in a scratch database on the same server, up to the revision that the
            database is at, instead of taking the snapshot of this release's newest one. The role that migrates needs
            the right to create databases.

    Raises:
        ConfigurationError: There is nothing to compare with: no snapshot of the newest revision, no scratch database.
        ConnectionFailed: The database cannot be reached.
    """
    snapshot = load_snapshot()
    live = await read_live(settings, tables=snapshot.of("table"))
    revision = compare_revisions(live.revisions, live.origin)
    state = _state(revision, live, ours=snapshot.of("table"))
    report = SchemaReport(
        database=str(resolve_target(settings)),
        schema=live.schema,
        revision=revision.database,
        head=revision.head,
        compared_with="nothing",
        differences=_of_revision(state, live, revision),
    )
    if state == "behind" and not scratch:
        is_at_head = ",".join(snapshot.revisions or ()) == revision.head and not compare(snapshot, live)
        return _stamped_too_low(report) if is_at_head else report
    if state in {"empty", "foreign"}:
        return report
    is_built = scratch and state in {"behind", "newest"}
    expected = await _build(settings, live.revisions or ("heads",)) if is_built else _checked(snapshot, revision.head)
    differences = compare(expected, live)
    if state == "newer":
        differences = tuple(replace(one, remedy=_LATER) for one in differences)
    elif state == "behind":
        differences = tuple(_without_loss(one, live, snapshot) for one in differences)
    return replace(
        report,
        compared_with="scratch database" if is_built else "snapshot",
        differences=(*report.differences, *differences),
    )


async def verify_at_startup(settings: Settings) -> SchemaReport | None:
    """Verify the database as DATABASE_VERIFY_SCHEMA says: not at all, with warnings in the log, or with an error.

    For a service's lifespan or readiness check. It compares with the snapshot: some 100 ms. Differences that can break
    nothing are never more than a warning, so that a release can start after its successor's migrations have run.

    Returns:
        The report; None if nothing was verified, or, under ``warn``, the verification failed.

    Raises:
        SchemaDriftError: Under ``error``, if a statement of the code can fail or an isolation layer is open.
        DatabaseError: Under ``error``, if the verification fails.
    """
    if settings.DATABASE_VERIFY_SCHEMA == "off":
        return None
    must_hold, logger = settings.DATABASE_VERIFY_SCHEMA == "error", get_logger(__name__)
    try:
        report = await verify(settings)
    except DatabaseError as error:
        if must_hold:
            raise
        logger.warning("schema_not_verified", error=type(error).__name__, reason=str(error.args[0]))
        return None
    for difference in report.differences:
        if not (must_hold and difference.severity == "error"):
            logger.warning("schema_drift", difference=str(difference), remedy="; ".join(difference.remedy))
    if must_hold and report.errors:
        raise _drift_error(report.errors)
    return report


async def read_live(settings: Settings, *, tables: Collection[str] = (), purpose: Purpose = "application") -> Catalog:
    """Read the catalog of the database that the settings name, in one read-only snapshot.

    Raises:
        ConnectionFailed: The database cannot be reached.
    """
    engine = create_engine(settings, poolclass=NullPool, purpose=purpose, name="verify")
    try:
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            return await read_catalog(connection, tables=tables)
    finally:
        await engine.dispose()


def _state(revision: Revision, live: Catalog, ours: Collection[str]) -> _State:
    if revision.is_foreign:
        return "foreign"
    if live.revisions is None or revision.database == revision.head:  # unreadable: the missing privilege is reported
        return "newest"
    if live.revisions:
        return "behind" if revision.is_known else "newer"
    return "unstamped" if set(ours) & set(live.of("table")) else "empty"


def _of_revision(state: _State, live: Catalog, revision: Revision) -> tuple[Difference, ...]:
    """Return the difference of the revision, unless it is the newest one of this installation."""
    remedy: Statements
    if state == "newest":
        return ()
    if state == "foreign":  # no statement is a remedy of that
        expected, others = "the migrations of thea-database", ", ".join(live.revisions or ()) or "no revision"
        remedy, found = (f"-- {OTHER_DATABASE}",), f"other migrations: {others}"
        return (Difference("revision", "alembic_version", "origin", remedy, expected, found),)
    remedy = ("thea-db upgrade",)
    if state == "newer":
        remedy = ("-- install the release of thea-database that migrated it; delete no revision",)
    elif state == "unstamped":
        remedy = ("-- once nothing else differs:", f"thea-db stamp {revision.head}")
    elif not live.schema:
        remedy = ("-- or the role may not use the schema of the tables: GRANT USAGE ON SCHEMA, search_path", *remedy)
    severity: Severity = "warning" if state == "newer" else "error"
    head, at = revision.head, revision.database
    return (Difference("revision", "alembic_version", "revision", remedy, head, at, severity),)


def _stamped_too_low(report: SchemaReport) -> SchemaReport:
    """Return the report of a schema that is at the newest revision although an older one is recorded."""
    remedy = ("-- the schema is at the newest revision already:", f"thea-db stamp {report.head}")
    differences = tuple(replace(one, remedy=remedy) for one in report.differences)
    return replace(report, compared_with="snapshot", differences=differences)


def _without_loss(difference: Difference, live: Catalog, snapshot: Catalog) -> Difference:
    """Return a difference without its statements if a later migration made it: they would undo the migration."""
    found, later = (catalog.of(difference.kind).get(difference.object) for catalog in (live, snapshot))
    # Both are None if a later migration dropped the object.
    is_of_later = (found and compared_facts(found)) == (later and compared_facts(later))
    return replace(difference, remedy=_OF_A_LATER_MIGRATION) if is_of_later else difference


def _checked(snapshot: Catalog, head: str) -> Catalog:
    """Return the snapshot if it is of the newest revision; else raise ConfigurationError."""
    if (revision := ",".join(snapshot.revisions or ())) != head:
        raise ConfigurationError(
            f"the schema's snapshot is of {revision}, the migrations go to {head}",
            hint="`thea-db check --update-snapshot`, or compare with a scratch database: --scratch",
        )
    return snapshot


async def _build(settings: Settings, revisions: tuple[str, ...]) -> Catalog:
    async with scratch_database(settings) as scratch:
        for revision in revisions:
            await upgrade(scratch, revision)
        return await read_live(scratch, purpose="migrations")


def _drift_error(errors: tuple[Difference, ...]) -> SchemaDriftError:
    shown = [f"{difference} ({'; '.join(difference.remedy)})" for difference in errors[:_SHOWN_IN_ERROR]]
    rest = [f"and {len(errors) - _SHOWN_IN_ERROR} more"] if len(errors) > _SHOWN_IN_ERROR else []
    return SchemaDriftError(
        "the database is not what the code expects:\n" + "\n".join([*shown, *rest]),
        hint="`thea-db verify` lists each with its remedy; with DATABASE_VERIFY_SCHEMA=warn the service starts",
    )
