"""Appointments and their reminders."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Computed, DateTime, ForeignKeyConstraint, Index, text
from sqlalchemy.orm import Mapped, declared_attr, mapped_column, relationship

from src.database.base import TenantBase

if TYPE_CHECKING:
    from src.database.models.user import User

__all__ = ["Event"]


class Event(TenantBase):
    """An event of a user. ``timezone`` is the IANA zone in which its wall-clock time was said.

    ``start_local`` is that time, without a zone, as it was when the row was written: a change of the zone's rules moves
    the instant and not what people agreed on.
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
        DateTime(timezone=False), Computed("start_datetime AT TIME ZONE timezone", persisted=True)
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

    @declared_attr.directive
    @classmethod
    def __mapper_args__(cls) -> dict[str, Any]:
        """Say that ``version`` guards against two writers at once."""
        return {"eager_defaults": True, "version_id_col": cls.__table__.c.version}

    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "user_id"], ["users.tenant_id", "users.id"]),
        ForeignKeyConstraint(["tenant_id", "series_id"], ["events.tenant_id", "events.id"]),
        CheckConstraint("jsonb_typeof(metadata) = 'object'", name="metadata"),
        CheckConstraint("length(title) BETWEEN 1 AND 500", name="title"),
        CheckConstraint("end_datetime >= start_datetime", name="end_datetime"),
        CheckConstraint("length(timezone) BETWEEN 1 AND 64", name="timezone"),
        CheckConstraint("status IN ('scheduled', 'cancelled', 'done')", name="status"),
        CheckConstraint("length(rrule) BETWEEN 1 AND 2000", name="rrule"),
        CheckConstraint("length(ical_uid) <= 255", name="ical_uid"),
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
