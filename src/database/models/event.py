"""Events of users, their recurrence and their reminders."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Unpack
from uuid import UUID
from zoneinfo import ZoneInfoNotFoundError

from sqlalchemy import CheckConstraint, Computed, DateTime, event, inspect, text
from sqlalchemy.orm import Mapped, declared_attr, mapped_column, relationship

from src.database.base import CleanText, TenantBase, tenant_foreign_key, tenant_index
from src.database.calendar import get_zone, local_time
from src.database.models.limits import EVENT_STATUS, ICAL_UID, RRULE, TIMEZONE, TITLE, EventStatus

if TYPE_CHECKING:
    from src.database.models.attributes import EventAttributes
    from src.database.models.user import User

NO_LOCAL_TIME: Final = datetime(1, 1, 1)  # noqa: DTZ001 - local time
"""The value of `start_local` in rows whose local time is unknown."""


class Event(TenantBase):
    """An event of a user. ``timezone`` is the IANA zone of its local times.

    ``start_local`` is the local start, without a zone, as of the write: people agreed on a local time, so if the rules
    of the zone change, the instant moves and the local time stays. This package computes it with the packaged zone
    data, and records in ``start_local_basis`` the instant and the zone that it used. A statement of another program may
    change the start or the zone without it; then the basis no longer matches, and `written_start_local` is None. A row
    that another program or the previous release inserted has `NO_LOCAL_TIME`.

    ``reminder_offset`` is in seconds before the start. A worker claims a reminder for a limited time:
    ``reminder_claimed_by`` until ``reminder_claimed_until``, under a new ``reminder_token`` (a fencing token: a worker
    that returns with another one has lost the claim).
    """

    __tablename__ = "events"

    user_id: Mapped[UUID]
    title: Mapped[str]
    description: Mapped[str | None]
    location: Mapped[str | None]
    start_datetime: Mapped[datetime]
    start_local: Mapped[datetime] = mapped_column(
        "local_start",
        DateTime(timezone=False),
        key="start_local",
        server_default=text(f"'{NO_LOCAL_TIME}'"),
        sort_order=1,
    )
    start_local_basis: Mapped[str | None] = mapped_column("local_start_basis", key="start_local_basis", sort_order=1)
    # Computed by the server with its own zone data, which can differ from the packaged data. Only the previous release
    # reads this column; it can be dropped in the next one.
    start_local_by_server: Mapped[datetime] = mapped_column(
        "start_local",
        DateTime(timezone=False),
        Computed("start_datetime AT TIME ZONE timezone", persisted=True),
        key="start_local_by_server",
    )
    end_datetime: Mapped[datetime | None]
    timezone: Mapped[str] = mapped_column(default="UTC", server_default="UTC")
    all_day: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    status: Mapped[EventStatus] = mapped_column(CleanText(), default="scheduled", server_default="scheduled")
    rrule: Mapped[str | None]
    exdates: Mapped[list[datetime]] = mapped_column(default=list, server_default=text("'{}'::timestamptz[]"))
    series_id: Mapped[UUID | None]
    recurrence_id: Mapped[datetime | None]
    ical_uid: Mapped[str | None]
    reminder_datetime: Mapped[datetime | None]
    reminder_offset: Mapped[int | None]
    reminder_attempts: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    reminder_claimed_by: Mapped[str | None]
    reminder_claimed_until: Mapped[datetime | None]
    reminder_token: Mapped[UUID | None]
    reminder_sent_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(default=1, server_default=text("1"))

    user: Mapped[User] = relationship(back_populates="events", lazy="raise")

    @property
    def written_start_local(self) -> datetime | None:
        """The local time of the start as of the write, or None if it is unknown."""
        if self.start_local == NO_LOCAL_TIME:
            return None
        basis = self.start_local_basis
        is_of_this_start = basis is None or basis == _basis(self.start_datetime, self.timezone)
        return self.start_local if is_of_this_start else None

    @declared_attr.directive
    @classmethod
    def __mapper_args__(cls) -> dict[str, Any]:
        """Return the mapper options: ``version`` is compared in each UPDATE, which detects a concurrent write."""
        return {"eager_defaults": True, "version_id_col": cls.__table__.c.version}

    if TYPE_CHECKING:

        def __init__(self, **values: Unpack[EventAttributes]) -> None: ...

    __table_args__ = (
        tenant_foreign_key("user_id", "users"),
        tenant_foreign_key("series_id", "events"),
        CheckConstraint("jsonb_typeof(metadata) = 'object'", name="metadata"),
        CheckConstraint(TITLE.sql("title"), name="title"),
        CheckConstraint("end_datetime >= start_datetime", name="end_datetime"),
        CheckConstraint(TIMEZONE.sql("timezone"), name="timezone"),
        CheckConstraint(EVENT_STATUS.sql("status"), name="status"),
        CheckConstraint(RRULE.sql("rrule"), name="rrule"),
        CheckConstraint(ICAL_UID.sql("ical_uid"), name="ical_uid"),
        CheckConstraint("(series_id IS NULL) = (recurrence_id IS NULL)", name="recurrence_id"),
        CheckConstraint("reminder_offset >= 0", name="reminder_offset"),
        CheckConstraint("reminder_attempts >= 0", name="reminder_attempts"),
        CheckConstraint(
            "(reminder_token IS NULL) = (reminder_claimed_until IS NULL)"
            " AND (reminder_token IS NULL) = (reminder_claimed_by IS NULL)",
            name="reminder_claim",
        ),
        # upcoming, overlapping: a user's events by time.
        tenant_index("ix_events_user_start", "user_id", "start_datetime", "id"),
        # overlapping: events that began before the interval.
        tenant_index("ix_events_user_end", "user_id", "end_datetime"),
        # A tenant's agenda by status.
        tenant_index("ix_events_status", "status", "start_datetime"),
        # claim_due_reminders: due and not sent.
        tenant_index("ix_events_due", "reminder_datetime", where="reminder_sent_at IS NULL AND status = 'scheduled'"),
        # occurrences: the series of a user, to expand.
        tenant_index("ix_events_recurring", "user_id", where="rrule IS NOT NULL"),
        # Each occurrence of a series is changed by at most one row.
        tenant_index("uq_events_occurrence", "series_id", "recurrence_id", unique=True, where="series_id IS NOT NULL"),
        # An imported calendar entry: importing it again updates the row.
        tenant_index(
            "uq_events_ical_uid",
            "user_id",
            "ical_uid",
            "recurrence_id",
            unique=True,
            postgresql_nulls_not_distinct=True,
            where="ical_uid IS NOT NULL",
        ),
    )


def start_local_values(start: object, timezone: str | None) -> dict[str, Any]:
    """Return the values of `start_local` and `start_local_basis`; `NO_LOCAL_TIME` and None if there is no local time.

    Args:
        start: The instant. Anything but an aware datetime, such as an SQL expression, has no local time.
        timezone: The name of the zone; None means the column's default.
    """
    name = timezone or "UTC"
    try:
        if isinstance(start, datetime) and start.tzinfo is not None:
            return {"start_local": local_time(start, get_zone(name)), "start_local_basis": _basis(start, name)}
    except (ZoneInfoNotFoundError, OverflowError):
        pass  # the server may know a zone that the packaged data lacks; a local time may be outside the years 1 to 9999
    return {"start_local": NO_LOCAL_TIME, "start_local_basis": None}


def _basis(start: datetime, timezone: str) -> str:
    return f"{start.astimezone(UTC).isoformat()} {timezone}"


@event.listens_for(Event, "before_insert")
@event.listens_for(Event, "before_update")
def _set_start_local(_mapper: Any, _connection: Any, row: Event) -> None:
    """Set the local start of a new row, or of a row whose start or zone has changed."""
    state: Any = inspect(row)
    if state.persistent and not any(state.attrs[name].history.has_changes() for name in ("start_datetime", "timezone")):
        return
    # If one of the two is not loaded, the pair is incomplete: the local time is unknown, rather than possibly wrong.
    is_whole = not state.persistent or {"start_datetime", "timezone"} <= state.dict.keys()
    start = state.dict.get("start_datetime") if is_whole else None
    for name, value in start_local_values(start, state.dict.get("timezone")).items():
        setattr(row, name, value)
