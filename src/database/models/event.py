"""Appointments and their reminders."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID
from zoneinfo import ZoneInfoNotFoundError

from sqlalchemy import CheckConstraint, Computed, DateTime, ForeignKeyConstraint, Index, event, inspect, text
from sqlalchemy.orm import Mapped, declared_attr, mapped_column, relationship

from src.database.base import TenantBase
from src.database.calendar import get_zone, local_time
from src.database.models.limits import ICAL_UID, RRULE, TIMEZONE, TITLE

if TYPE_CHECKING:
    from src.database.models.user import User

NO_LOCAL_TIME: Final = datetime(1, 1, 1)  # noqa: DTZ001 - local time
"""The value of `start_local` where it is not known."""


class Event(TenantBase):
    """An event of a user. ``timezone`` is the IANA zone in which its wall-clock time was said.

    ``start_local`` is that time, without a zone, as it was when the row was written: a change of the zone's rules moves
    the instant and not what people agreed on. It is computed here, with the packaged zone data, and
    ``start_local_basis`` names the instant and the zone that it was computed from: where a statement that is not of
    this package has changed one of these, `written_start_local` is None. A row that such a statement, or the release
    before this one, has inserted has `NO_LOCAL_TIME`, the beginning of the year 1.
    ``reminder_offset`` is in seconds before the start. A reminder is claimed for a while: by whom, until when, and
    under which token (the fence: who comes back with an older one has lost the claim).
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
    # The server's own, by another clock. No code of this release reads it; the one before does, so it goes a release
    # later.
    start_local_by_server: Mapped[datetime] = mapped_column(
        "start_local",
        DateTime(timezone=False),
        Computed("start_datetime AT TIME ZONE timezone", persisted=True),
        key="start_local_by_server",
    )
    end_datetime: Mapped[datetime | None]
    timezone: Mapped[str] = mapped_column(default="UTC", server_default="UTC")
    all_day: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    status: Mapped[str] = mapped_column(default="scheduled", server_default="scheduled")
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
        """The local time of the start as it was when the row was written; None where that is not known."""
        if self.start_local == NO_LOCAL_TIME:
            return None
        basis = self.start_local_basis
        is_of_this_start = basis is None or basis == _basis(self.start_datetime, self.timezone)
        return self.start_local if is_of_this_start else None

    @declared_attr.directive
    @classmethod
    def __mapper_args__(cls) -> dict[str, Any]:
        """Return the options by which ``version`` guards against two concurrent writers."""
        return {"eager_defaults": True, "version_id_col": cls.__table__.c.version}

    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "user_id"], ["users.tenant_id", "users.id"]),
        ForeignKeyConstraint(["tenant_id", "series_id"], ["events.tenant_id", "events.id"]),
        CheckConstraint("jsonb_typeof(metadata) = 'object'", name="metadata"),
        CheckConstraint(TITLE.sql("title"), name="title"),
        CheckConstraint("end_datetime >= start_datetime", name="end_datetime"),
        CheckConstraint(TIMEZONE.sql("timezone"), name="timezone"),
        CheckConstraint("status IN ('scheduled', 'cancelled', 'done')", name="status"),
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
        Index("ix_events_user_start", "tenant_id", "user_id", "start_datetime", "id"),
        # overlapping: what has begun and not ended.
        Index("ix_events_user_end", "tenant_id", "user_id", "end_datetime"),
        # A tenant's agenda by status.
        Index("ix_events_status", "tenant_id", "status", "start_datetime"),
        # claim_due_reminders: what is due and not sent.
        Index(
            "ix_events_due",
            "tenant_id",
            "reminder_datetime",
            postgresql_where=text("reminder_sent_at IS NULL AND status = 'scheduled'"),
        ),
        # A user's recurring events, to be expanded.
        Index("ix_events_recurring", "tenant_id", "user_id", postgresql_where=text("rrule IS NOT NULL")),
        # The changed occurrences of a series: one each.
        Index(
            "uq_events_occurrence",
            "tenant_id",
            "series_id",
            "recurrence_id",
            unique=True,
            postgresql_where=text("series_id IS NOT NULL"),
        ),
        # Imported again: the same calendar entry.
        Index(
            "uq_events_ical_uid",
            "tenant_id",
            "user_id",
            "ical_uid",
            "recurrence_id",
            unique=True,
            postgresql_nulls_not_distinct=True,
            postgresql_where=text("ical_uid IS NOT NULL"),
        ),
    )


def start_local_values(start: object, timezone: str | None) -> dict[str, Any]:
    """Return `start_local` and `start_local_basis` for a start and a zone; `NO_LOCAL_TIME` and None where it has none.

    Args:
        start: The instant; what is no datetime, e.g. an SQL expression, has no local time here.
        timezone: The zone's name; None is the column's default.
    """
    name = timezone or "UTC"
    try:
        if isinstance(start, datetime) and start.tzinfo is not None:
            return {"start_local": local_time(start, get_zone(name)), "start_local_basis": _basis(start, name)}
    except (ZoneInfoNotFoundError, OverflowError):  # of another source, or at an end of the calendar
        pass
    return {"start_local": NO_LOCAL_TIME, "start_local_basis": None}


def _basis(start: datetime, timezone: str) -> str:
    return f"{start.astimezone(UTC).isoformat()} {timezone}"


@event.listens_for(Event, "before_insert")
@event.listens_for(Event, "before_update")
def _set_start_local(_mapper: Any, _connection: Any, row: Event) -> None:
    """Compute the local time of a start that is new, or of one whose instant or zone has changed."""
    state: Any = inspect(row)
    if state.persistent and not any(state.attrs[name].history.has_changes() for name in ("start_datetime", "timezone")):
        return
    is_whole = not state.persistent or {"start_datetime", "timezone"} <= state.dict.keys()
    start = state.dict.get("start_datetime") if is_whole else None
    for name, value in start_local_values(start, state.dict.get("timezone")).items():
        setattr(row, name, value)
