"""Is the database what the code expects of it? Each difference, with the statements that mend it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from sqlalchemy.pool import NullPool

from src.config import Settings, get_logger
from src.config.environment import Purpose
from src.database.drift import Catalogue, Difference, compare, load_snapshot, read_catalogue
from src.database.drift.catalog import Facts
from src.database.drift.scratch import scratch_database
from src.database.engine import create_engine
from src.database.errors import ConfigurationError, DatabaseError, SchemaDriftError
from src.database.migrate import OTHER_DATABASE, script_directory, upgrade
from src.database.resolve import resolve_target

__all__ = ["SchemaReport", "read_live", "verify", "verify_at_startup"]

Yardstick = Literal["snapshot", "scratch database", "nothing"]
_State = Literal["empty", "foreign", "unstamped", "behind", "newest", "newer"]

_LATER: Final = ("-- a newer release's migrations may have made it so: install that release, or leave it",)
_OF_A_LATER_MIGRATION: Final = (
    "-- a later migration made it so, and the schema is past the revision that is recorded:",
    "-- `thea-db verify` without --scratch names the revision to stamp",
)
_SHOWN_IN_ERROR: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaReport:
    """What `verify` found.

    Args:
        database: Where, without the password.
        schema: The schema that was read; empty where there is none that the role may use.
        revision: What the database is at; None: nothing, or it may not be read.
        head: The newest revision of this installation.
        compared_with: What said how it should be.
        differences: Each difference, in an order in which the remedies can be run.
    """

    database: str
    schema: str
    revision: str | None
    head: str
    compared_with: Yardstick
    differences: tuple[Difference, ...]

    @property
    def is_sound(self) -> bool:
        """Whether there is no difference at all."""
        return not self.differences

    @property
    def errors(self) -> tuple[Difference, ...]:
        """The differences that can make the code's statements fail, or leave a wall open."""
        return tuple(difference for difference in self.differences if difference.severity == "error")

    def document(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        differences = [{"summary": str(one), **asdict(one), "remedy": list(one.remedy)} for one in self.differences]
        return {**asdict(self), "is_sound": self.is_sound, "differences": differences}


async def verify(settings: Settings, *, scratch: bool = False) -> SchemaReport:
    """Compare the database with what the migrations build, as the application's role sees it; nothing is written to it.

    Args:
        settings: Where it is.
        scratch: Build the expected schema in a scratch database on the same server, up to the revision that the
            database is at, in place of taking the snapshot of this release's newest one. The role that migrates has
            to be allowed to create databases.

    Raises:
        ConfigurationError: It cannot be told: there is no snapshot of the newest revision, no scratch database.
        ConnectionFailed: The database cannot be reached.
    """
    script = script_directory()
    heads, known = tuple(sorted(script.get_heads())), {revision.revision for revision in script.walk_revisions()}
    snapshot = load_snapshot()
    live = await read_live(settings, tables=snapshot.of("table"))
    state = _state(live, heads, known, ours=snapshot.of("table"))
    report = SchemaReport(
        database=str(resolve_target(settings)),
        schema=live.schema,
        revision=",".join(live.revisions or ()) or None,
        head=",".join(heads),
        compared_with="nothing",
        differences=_of_revision(state, live, heads),
    )
    if state == "behind" and not scratch:
        return (
            _stamped_too_low(report, heads) if snapshot.revisions == heads and not compare(snapshot, live) else report
        )
    if state in {"empty", "foreign"}:
        return report
    by_building = scratch and state in {"behind", "newest"}
    expected = await _build(settings, live.revisions or heads) if by_building else _snapshot_of(heads, snapshot)
    differences = compare(expected, live)
    if state == "newer":
        differences = tuple(replace(one, remedy=_LATER) for one in differences)
    elif state == "behind":
        differences = tuple(_without_loss(one, live, snapshot) for one in differences)
    return replace(
        report,
        compared_with="scratch database" if by_building else "snapshot",
        differences=(*report.differences, *differences),
    )


async def verify_at_startup(settings: Settings) -> SchemaReport | None:
    """Do what DATABASE_VERIFY_SCHEMA says: nothing, a warning in the log for each difference, or refuse to start.

    For a service's lifespan or readiness check. It compares with the snapshot: some 100 ms. Differences that can break
    nothing are never more than a warning, so that a release can start while its successor's migrations have run.

    Returns:
        What was found; None where nothing was looked at, or, under ``warn``, nothing could be told.

    Raises:
        SchemaDriftError: Under ``error``, where a statement of the code's can fail or a wall stands open.
        DatabaseError: Under ``error``, where it cannot be told.
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
        raise _drift_error(report)
    return report


async def read_live(settings: Settings, *, tables: Collection[str] = (), purpose: Purpose = "application") -> Catalogue:
    """Read the catalogue of the database that the settings name, in one read-only snapshot of it.

    Raises:
        ConnectionFailed: The database cannot be reached.
    """
    engine = create_engine(settings, poolclass=NullPool, purpose=purpose, name="verify")
    try:
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            return await read_catalogue(connection, tables=tables)
    finally:
        await engine.dispose()


def _state(live: Catalogue, heads: tuple[str, ...], known: Collection[str], ours: Collection[str]) -> _State:
    there = live.revisions
    if live.origin is not None and live.origin.is_of_others(there, known):
        return "foreign"
    if there is None or there == heads:  # where it may not be read, the right to is missing, and said to be
        return "newest"
    if there:
        return "behind" if set(there) <= set(known) else "newer"
    return "unstamped" if set(ours) & set(live.of("table")) else "empty"


def _of_revision(state: _State, live: Catalogue, heads: tuple[str, ...]) -> tuple[Difference, ...]:
    """Say which revision the database is at, where it is not the newest that this installation has."""
    if state == "newest":
        return ()
    if state == "foreign":
        return (_other_migrations(live),)
    remedy: tuple[str, ...] = ("thea-db upgrade",)
    if state == "newer":
        remedy = ("-- install the release of thea-database that migrated it; delete no revision",)
    elif state == "unstamped":
        remedy = ("-- once nothing else differs:", f"thea-db stamp {','.join(heads)}")
    elif not live.schema:
        remedy = ("-- or the role may not use the schema of the tables: GRANT USAGE ON SCHEMA, search_path", *remedy)
    return (
        Difference(
            kind="revision",
            object="alembic_version",
            attribute="revision",
            expected=",".join(heads),
            found=",".join(live.revisions or ()) or None,
            remedy=remedy,
            severity="warning" if state == "newer" else "error",
        ),
    )


def _stamped_too_low(report: SchemaReport, heads: tuple[str, ...]) -> SchemaReport:
    """Return the report of a schema that is at the newest revision although an older one is recorded."""
    remedy = ("-- the schema is at the newest revision already:", f"thea-db stamp {','.join(heads)}")
    differences = tuple(replace(one, remedy=remedy) for one in report.differences)
    return replace(report, compared_with="snapshot", differences=differences)


def _without_loss(difference: Difference, live: Catalogue, snapshot: Catalogue) -> Difference:
    """Return a difference without its statements where a later migration made it so: they would undo the migration."""
    found = live.of(difference.kind).get(difference.object)
    later = snapshot.of(difference.kind).get(difference.object)
    if (found and _visible(found)) != (later and _visible(later)):  # None is equal: a later migration dropped it
        return difference
    return replace(difference, remedy=_OF_A_LATER_MIGRATION)


def _visible(facts: Facts) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if not name.startswith("_")}


def _other_migrations(live: Catalogue) -> Difference:
    """Return the one difference of a database that is not this package's; no statement is a remedy of that."""
    return Difference(
        kind="revision",
        object="alembic_version",
        attribute="origin",
        expected="the migrations of thea-database",
        found=f"other migrations: {', '.join(live.revisions or ()) or 'no revision'}",
        remedy=(f"-- {OTHER_DATABASE}",),
    )


def _snapshot_of(heads: tuple[str, ...], snapshot: Catalogue) -> Catalogue:
    if snapshot.revisions != heads:
        raise ConfigurationError(
            f"the schema's snapshot is of {','.join(snapshot.revisions or ())}, the migrations go to {','.join(heads)}",
            hint="`thea-db check --update-snapshot`, or compare with a scratch database: --scratch",
        )
    return snapshot


async def _build(settings: Settings, revisions: tuple[str, ...]) -> Catalogue:
    async with scratch_database(settings) as scratch:
        for revision in revisions:
            await upgrade(scratch, revision)
        return await read_live(scratch, purpose="migrations")


def _drift_error(report: SchemaReport) -> SchemaDriftError:
    errors = report.errors
    shown = [f"{difference} ({'; '.join(difference.remedy)})" for difference in errors[:_SHOWN_IN_ERROR]]
    rest = [f"and {len(errors) - _SHOWN_IN_ERROR} more"] if len(errors) > _SHOWN_IN_ERROR else []
    return SchemaDriftError(
        "the database is not what the code expects:\n" + "\n".join([*shown, *rest]),
        hint="`thea-db verify` lists each with its remedy; with DATABASE_VERIFY_SCHEMA=warn the service starts",
    )
