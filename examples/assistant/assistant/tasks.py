"""The tasks of users: the table of this service, its repository, and what the API takes and returns."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, Field
from sqlalchemy import ForeignKeyConstraint
from sqlalchemy.orm import Mapped, mapped_column

from thea_database.base import TenantBase, tenant_foreign_key, tenant_index
from thea_database.repositories import Repository
from thea_database.schemas import Read


class Task(TenantBase):
    """A task of a user. The foreign key makes the rows personal data: export and erasure include them."""

    __tablename__ = "tasks"

    user_id: Mapped[UUID]
    title: Mapped[str]
    is_done: Mapped[bool] = mapped_column(default=False, server_default="false")

    __table_args__ = (
        ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
        tenant_foreign_key("user_id", "users"),
        tenant_index("ix_tasks_user_id", "user_id", "id"),
    )


class TaskRepository(Repository[Task]):
    """The tasks of the current tenant."""

    model = Task


class NewTask(BaseModel):
    """A task that a client creates."""

    title: str = Field(min_length=1, max_length=200)


class TaskRead(Read):
    """A task that a client reads."""

    title: str
    is_done: bool
    created_at: datetime
