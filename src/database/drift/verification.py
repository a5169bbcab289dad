"""Verify that a database has the schema that the code expects; report each difference with its remedy."""

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
from src.database.drift.snapshot import (
    UPDATE_SNAPSHOT,
    load_service_snapshot,
    load_snapshot,
    service_snapshot_file,
    united,
)
from src.database.errors import ConfigurationError, DatabaseError, SchemaDriftError
from src.database.migrate import (
    OTHER_DATABASE,
    VERSION_TABLE,
    History,
    Revision,
    RevisionState,
    compare_revisions,
    compare_service_revisions,
    service_history,
    upgrade,
)
from src.database.session import create_engine, resolve_target

_OF_A_NEWER_RELEASE: Final = (
    "-- a migration of a newer release may have made this change: install that release, or keep the change",
)
_OF_A_LATER_MIGRATION: Final = (
    "-- a later migration made this change: the schema is newer than the recorded revision;",
    "-- `thea-db verify` without --scratch names the revision to stamp",
)
_DIFFERENCES_IN_ERROR: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaReport:
    """The result of `verify`.

    Args:
        database: The target, without its password.
        schema: The schema that was read; empty if the role may use none.
        revision: The revision of the database; None if it has none, or if the role may not read it.
        head: The newest revision of this installation.
        compared_with: The expected catalog; ``nothing`` if the revision made a comparison useless.
        differences: Each difference, in an order in which the remedies can be run.
        service_revision: The revision of the database in the service's history; None if it has none.
    """

    database: str
    schema: str
    revision: str | None
    head: str
    compared_with: Literal["snapshot", "scratch database", "nothing"]
    differences: tuple[Difference, ...]
    service_revision: str | None = None

    @property
    def is_sound(self) -> bool:
        """True if there is no difference."""
        return not self.differences

    @property
    def errors(self) -> tuple[Difference, ...]:
        """The differences that can make a statement of the code fail, or that open an isolation layer."""
        return tuple(difference for difference in self.differences if difference.severity == "error")

    def document(self) -> dict[str, Any]:
        """Return the report as a JSON document."""
        differences = [{"summary": str(one), **asdict(one), "remedy": list(one.remedy)} for one in self.differences]
        return {**asdict(self), "is_sound": self.is_sound, "differences": differences}


async def verify(settings: Settings, *, scratch: bool = False) -> SchemaReport:
    """Compare the database with what the migrations build. The application's role reads, and nothing is written.

    Args:
        settings: The settings that name the database.
        scratch: Build the expected schema in a scratch database on the same server, up to the revision of the
            database, instead of using the snapshot of the newest revision. The role of DATABASE_MIGRATION_URL needs
            the right to create databases.

    Raises:
        ConfigurationError: The snapshot is not of the newest revision, or the scratch database cannot be created.
        ConnectionFailed: The database cannot be reached.
    """
    snapshot, service = load_snapshot(), service_history(settings)
    live = await read_live(settings, tables=snapshot.of("table"))
    of_service = service.installed()[1] if service else ()
    revision = compare_revisions(live.revisions, live.origin, of_service=of_service)
    # An unreadable version table says nothing about the schema. The missing privilege is a difference of its own.
    state = "newest" if live.revisions is None and not revision.is_foreign else revision.state
    report = SchemaReport(
        database=str(resolve_target(settings)),
        schema=live.schema,
        revision=revision.database,
        head=revision.head,
        compared_with="nothing",
        differences=_revision_difference(state, live, revision),
        service_revision=",".join(live.service_revisions or ()) or None,
    )
    if state == "behind" and not scratch:
        is_at_head = ",".join(snapshot.revisions or ()) == revision.head and not compare(snapshot, live)
        return _stamped_too_low(report) if is_at_head else report
    if state in {"empty", "foreign"}:
        return report
    is_built = scratch and state in {"behind", "newest"}
    of_both, expected_of_service = _of_service(service, live, is_built=is_built)
    if is_built:
        expected = await _build(settings, live)
    else:
        expected = united(_checked(snapshot, revision.head), expected_of_service)
    differences = compare(expected, live)
    if state == "newer":
        differences = tuple(replace(one, remedy=_OF_A_NEWER_RELEASE) for one in differences)
    elif state == "behind":
        differences = tuple(_without_loss(one, live, snapshot) for one in differences)
    return replace(
        report,
        compared_with="scratch database" if is_built else "snapshot",
        differences=(*report.differences, *of_both, *differences),
    )


def _of_service(
    service: History | None, live: Catalog, *, is_built: bool
) -> tuple[tuple[Difference, ...], Catalog | None]:
    """Return the difference of a service's revision or snapshot, and the service's objects if they can be compared.

    Args:
        service: The history of the service, if there is one.
        live: The catalog of the database.
        is_built: A scratch database takes the place of the snapshot.

    Raises:
        ConfigurationError: The snapshot file is not a snapshot.
    """
    if service is None or live.service_revisions is None:
        return (), None
    revision, table = compare_service_revisions(live.service_revisions, service), service.version_table
    remedy: Statements = ("thea-db upgrade",)
    if revision.state == "newer":
        remedy = ("-- install the release of the service that migrated the database; delete no revision",)
        return (Difference("revision", table, "revision", remedy, revision.head, revision.database, "warning"),), None
    if revision.state != "newest":
        return (Difference("revision", table, "revision", remedy, revision.head, revision.database),), None
    if is_built or not revision.head:
        return (), None
    snapshot, file = load_service_snapshot(service), str(service_snapshot_file(service))
    if snapshot is not None and ",".join(snapshot.revisions or ()) == revision.head:
        return (), snapshot
    remedy = ("-- until then, the tables of the service are compared only with --scratch:", UPDATE_SNAPSHOT)
    found = "missing" if snapshot is None else ",".join(snapshot.revisions or ())
    return (Difference("snapshot", file, "revision of the snapshot", remedy, revision.head, found, "warning"),), None


async def verify_at_startup(settings: Settings) -> SchemaReport | None:
    """Verify the database when a service starts, in the mode of DATABASE_VERIFY_SCHEMA: off, warn or error.

    The comparison with the snapshot takes about 100 ms. Each difference is logged. A difference of severity
    ``warning`` never raises, so that the previous release can still start after the next release's migrations.

    Args:
        settings: The settings that name the database and the mode.

    Returns:
        The report; None in mode ``off``, or if the verification failed in mode ``warn``.

    Raises:
        SchemaDriftError: In mode ``error``, if a statement of the code can fail or an isolation layer is open.
        DatabaseError: In mode ``error``, if the verification fails.

    Example:
        ::

            @asynccontextmanager
            async def lifespan(app: FastAPI) -> AsyncIterator[None]:
                await verify_at_startup(settings)
                yield
    """
    if settings.DATABASE_VERIFY_SCHEMA == "off":
        return None
    is_strict, logger = settings.DATABASE_VERIFY_SCHEMA == "error", get_logger(__name__)
    try:
        report = await verify(settings)
    except DatabaseError as error:
        if is_strict:
            raise
        logger.warning("schema_not_verified", error=type(error).__name__, reason=str(error.args[0]))
        return None
    for difference in report.differences:
        if not (is_strict and difference.severity == "error"):
            logger.warning("schema_drift", difference=str(difference), remedy="; ".join(difference.remedy))
    if is_strict and report.errors:
        raise _drift_error(report.errors)
    return report


async def read_live(settings: Settings, *, tables: Collection[str] = (), purpose: Purpose = "application") -> Catalog:
    """Read the catalog of a database in one read-only transaction.

    Args:
        settings: The settings that name the database.
        tables: The names of tables that distinguish the schema, as in `read_catalog`.
        purpose: The role that reads; the privileges in the catalog are those of this role.

    Raises:
        ConnectionFailed: The database cannot be reached.
    """
    # NullPool: the one connection is closed with its use, and leaves none to a pool of the service.
    engine = create_engine(settings, poolclass=NullPool, purpose=purpose, name="verify")
    try:
        async with engine.connect() as connection:
            # REPEATABLE READ: a migration that commits between two queries would be seen in part.
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            return await read_catalog(connection, tables=tables, service=service_history(settings))
    finally:
        await engine.dispose()


def _revision_difference(state: RevisionState, live: Catalog, revision: Revision) -> tuple[Difference, ...]:
    """Return the difference of the revision; nothing if the database is at the newest revision."""
    remedy: Statements
    if state == "newest":
        return ()
    if state == "foreign":  # no statement repairs a wrong DATABASE_URL
        expected, others = "the migrations of thea-database", ", ".join(live.revisions or ()) or "no revision"
        remedy, found = (f"-- {OTHER_DATABASE}",), f"other migrations: {others}"
        return (Difference("revision", VERSION_TABLE, "origin", remedy, expected, found),)
    remedy = ("thea-db upgrade",)
    if state == "newer":
        remedy = ("-- install the release of thea-database that migrated the database; delete no revision",)
    elif state == "unstamped":
        remedy = ("-- after all other differences are repaired:", f"thea-db stamp {revision.head}")
    elif not live.schema:
        remedy = (
            "-- if the tables exist: GRANT USAGE ON SCHEMA to this role, or correct the search_path of the role; else:",
            *remedy,
        )
    severity: Severity = "warning" if state == "newer" else "error"
    head, at = revision.head, revision.database
    return (Difference("revision", VERSION_TABLE, "revision", remedy, head, at, severity),)


def _stamped_too_low(report: SchemaReport) -> SchemaReport:
    """Return the report of a schema that is at the newest revision although an older revision is recorded."""
    remedy = ("-- the schema already is at the newest revision:", f"thea-db stamp {report.head}")
    differences = tuple(replace(one, remedy=remedy) for one in report.differences)
    return replace(report, compared_with="snapshot", differences=differences)


def _without_loss(difference: Difference, live: Catalog, snapshot: Catalog) -> Difference:
    """Return a difference without its statements if a later migration made it: they would undo that migration."""
    found, later = (catalog.of(difference.kind).get(difference.object) for catalog in (live, snapshot))
    # Both are None if a later migration dropped the object.
    is_of_later = (found and compared_facts(found)) == (later and compared_facts(later))
    return replace(difference, remedy=_OF_A_LATER_MIGRATION) if is_of_later else difference


def _checked(snapshot: Catalog, head: str) -> Catalog:
    """Return the snapshot if it is of the newest revision; raise ConfigurationError otherwise."""
    if (revision := ",".join(snapshot.revisions or ())) != head:
        raise ConfigurationError(
            f"the snapshot of the schema is of revision {revision}, the newest migration is {head}",
            hint="run `thea-db check --update-snapshot`, or compare with a scratch database: --scratch",
        )
    return snapshot


async def _build(settings: Settings, live: Catalog) -> Catalog:
    """Build the schema of the recorded revisions in a scratch database, and return its catalog."""
    service = service_history(settings)
    async with scratch_database(settings) as scratch:
        for revision in live.revisions or ("heads",):
            await upgrade(scratch, revision, of="package")
        if service is not None and set(live.service_revisions or ()) <= service.installed()[1]:
            for revision in live.service_revisions or ():
                await upgrade(scratch, revision, of="service")
        return await read_live(scratch, purpose="migrations")


def _drift_error(errors: tuple[Difference, ...]) -> SchemaDriftError:
    lines = [f"{difference} ({'; '.join(difference.remedy)})" for difference in errors[:_DIFFERENCES_IN_ERROR]]
    if len(errors) > _DIFFERENCES_IN_ERROR:
        lines.append(f"and {len(errors) - _DIFFERENCES_IN_ERROR} more")
    return SchemaDriftError(
        "the database does not have the schema that the code expects:\n" + "\n".join(lines),
        hint="`thea-db verify` lists each difference with its remedy; with DATABASE_VERIFY_SCHEMA=warn the service"
        " starts in spite of the differences",
    )
