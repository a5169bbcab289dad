"""Make one user of two: all rows of the second user become rows of the first."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    Column,
    ColumnElement,
    MetaData,
    Uuid,
    any_,
    case,
    delete,
    func,
    inspect,
    literal,
    literal_column,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import aliased
from sqlalchemy.orm.attributes import set_committed_value

from src.database.base import Base, TenantBase, check_id
from src.database.errors import DuplicateKeyError, IntegrityError
from src.database.models import Conversation, User, UserIdentity, limits
from src.database.observability import names_statements
from src.database.session import AsyncSession
from src.database.statements.removal import PERSON, references
from src.database.statements.rows import lock_rows, required, statement_time, update_one, update_rows

MERGED: Final = "merged_users"
"""The key in `extra` of the rows of the users that were merged into this one, as they were."""
MERGED_REASON: Final = "merged"
"""The `close_reason` of a conversation whose chat has a later one of the other user."""
MERGE_BATCH: Final = 20_000
"""Rows per statement, few enough for DATABASE_STATEMENT_TIMEOUT."""
_ONE_OF_THEM: Final = ("telegram_id", "username", "display_name", "locale")
"""The attributes that the first user takes from the second if it has none."""


@names_statements
async def merge(session: AsyncSession, user_id: UUID, other_id: UUID, *, metadata: MetaData = Base.metadata) -> User:
    """Make one user of two, and return it; see `UserRepository.merge`."""
    user, other = await _lock(session, user_id, other_id)
    await _check_identities(session, user, other)
    await _close_older(session, user.id, other.id)
    person = metadata.tables[PERSON]
    columns = [one.column for one in references(metadata) if one.target is person]
    for column in columns:
        await _move(session, column, user.id, other.id)
    merged = await _join(session, user, other)
    _refresh(session, columns, merged, other)
    return merged


async def _lock(session: AsyncSession, user_id: UUID, other_id: UUID) -> tuple[User, User]:
    """Lock the conversations of two users, and the users.

    The conversations come first, as in a turn, which holds its conversation while the foreign key of a message locks
    the user. With the users locked, no transaction inserts a row of one of them.

    Raises:
        NotFoundError: The tenant has no such live user.
        ValueError: Both are one user.
    """
    for name, value in (("user_id", user_id), ("other_id", other_id)):
        check_id(name, value)
    if str(user_id) == str(other_id):
        raise ValueError(f"other_id must be the id of another user than user_id, got {user_id} for both")
    pair = [user_id, other_id]
    conversations = (
        select(Conversation.id)
        .where(Conversation.tenant_id == session.tenant_id, Conversation.user_id.in_(pair))
        .order_by(Conversation.id)
        .with_for_update(key_share=True)
    )
    await session.execute(conversations)
    live = (User.id.in_(pair), User.deleted_at.is_(None))
    users = {str(one.id): one for one in await lock_rows(session, User, *live, order_by=User.id)}
    user, other = (required(users.get(str(one)), User, one) for one in pair)
    return user, other


async def _check_identities(session: AsyncSession, user: User, other: User) -> None:
    """Check that the users have no identities of one provider.

    Raises:
        IntegrityError: They have.
    """
    first, second = aliased(UserIdentity), aliased(UserIdentity)
    both = (
        select(first.provider)
        .join(second, (second.tenant_id == first.tenant_id) & (second.provider == first.provider))
        .where(first.tenant_id == session.tenant_id, first.user_id == user.id, second.user_id == other.id)
        .where(second.tenant_id == session.tenant_id)
        .order_by(first.provider)
        .limit(1)
    )
    provider = await session.scalar(both)
    remedy = f"unlink the identity of the one that is not used any more, e.g. `unlink(user_id, {provider!r}, subject)`"
    if user.telegram_id is not None and other.telegram_id is not None:
        provider = limits.TELEGRAM
        remedy = "set telegram_id of the one that is not used any more to None with `update`"
    if provider is not None:
        raise IntegrityError(
            f"users {user.id} and {other.id} cannot be merged: both have an identity of provider {provider!r}",
            hint=f"{remedy}, and merge again",
        )


async def _close_older(session: AsyncSession, user_id: UUID, other_id: UUID) -> None:
    """Close the older of two active conversations of one chat, by the time of the last message."""
    first, second = aliased(Conversation), aliased(Conversation)
    is_active: list[Any] = [
        condition
        for one, owner in ((first, user_id), (second, other_id))
        for condition in (
            one.tenant_id == session.tenant_id,
            one.user_id == owner,
            one.is_active,
            one.deleted_at.is_(None),
        )
    ]
    is_first_older = _age(first) < _age(second)
    older = (
        select(case((is_first_older, first.id), else_=second.id))
        .select_from(first)
        .join(second, second.channel == first.channel)
        .where(first.external_chat_id.is_not_distinct_from(second.external_chat_id), *is_active)
    )
    closed = {"is_active": False, "closed_at": statement_time(), "close_reason": MERGED_REASON}
    await update_rows(session, Conversation, Conversation.id.in_(older), **closed)


def _age(conversation: Any) -> ColumnElement[Any]:
    last_active = func.coalesce(conversation.last_message_at, conversation.created_at)
    return tuple_(last_active, conversation.id)


async def _move(session: AsyncSession, column: Column[Any], user_id: UUID, other_id: UUID) -> None:
    """Set a column to one user where it refers to another, in batches.

    Raises:
        DuplicateKeyError: Both users have a row of the table with one key.
    """
    table = column.table
    of_tenant = table.c.tenant_id == session.tenant_id
    batch = select(table.c.id).where(of_tenant, column == other_id).limit(MERGE_BATCH)
    while row_ids := list(await session.scalars(batch)):
        these = table.c.id == any_(literal(row_ids, ARRAY(Uuid)))
        moved = update(table).where(of_tenant, these).values({column: user_id})
        try:
            await session.execute(moved, execution_options={"synchronize_session": False})
        except DuplicateKeyError as error:
            raise DuplicateKeyError(
                f"the users cannot be merged: both have a row of {table.name} with one key",
                constraint=error.constraint,
                sqlstate=error.sqlstate,
                hint="roll back, delete one of the two rows or change its key, and merge again",
            ) from error


async def _join(session: AsyncSession, user: User, other: User) -> User:
    """Delete the second user, whose attributes the first one keeps, and return the first one.

    The row is deleted permanently: a soft-deleted one would accept the rows of a caller that still has its id, and
    neither the export nor the erasure of the first user would find it.
    """
    is_other = (User.tenant_id == session.tenant_id, User.id == other.id)
    whole_row = func.to_jsonb(literal_column(PERSON), type_=JSONB)
    row: dict[str, Any] = (await session.execute(select(whole_row).where(*is_other))).scalar_one()
    row["metadata"].pop(MERGED, None)  # listed beside the row
    earlier = [*user.extra.get(MERGED, []), *other.extra.get(MERGED, [])]
    seen = [one.last_seen_at for one in (user, other) if one.last_seen_at is not None]
    values = {name: getattr(other, name) for name in _ONE_OF_THEM if getattr(user, name) is None} | {
        "last_seen_at": max(seen, default=None),
        "preferences": {**other.preferences, **user.preferences},
        "extra": {**other.extra, **user.extra, MERGED: [*earlier, row]},
    }
    # Before the update: a Telegram id is unique.
    await session.execute(delete(User).where(*is_other), execution_options={"synchronize_session": False})
    return required(await update_one(session, User, User.id == user.id, **values), User, user.id)


def _refresh(session: AsyncSession, columns: list[Column[Any]], user: User, other: User) -> None:
    """Update the entities of the session: columns that referred to the second user, and loaded relationships."""
    session.expunge(other)
    moved = {(column.table, column.name) for column in columns}
    for row in list(session):
        if not isinstance(row, TenantBase):
            continue
        mapper = inspect(type(row))
        for attribute in mapper.column_attrs:
            column = attribute.columns[0]
            is_moved = (mapper.local_table, getattr(column, "name", None)) in moved
            if is_moved and row.__dict__.get(attribute.key) == other.id:
                set_committed_value(row, attribute.key, user.id)
        related = [one.key for one in mapper.relationships if row is user or one.mapper.class_ is User]
        if loaded := [name for name in related if name in row.__dict__]:  # without names, all attributes would expire
            session.expire(row, loaded)
