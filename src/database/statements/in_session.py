"""Call SQL functions in a session's transaction, and keep the session's entities current."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy.orm.attributes import set_committed_value

from src.database.base import TenantBase
from src.database.errors import SchemaDriftError
from src.database.session import AsyncSession
from src.database.statements.call import Call, raise_if_missing
from src.database.statements.entities import entities_of
from src.database.statements.sending import records

ModelT = TypeVar("ModelT", bound=TenantBase)


class InSession:
    """Sends calls in a session's transaction.

    Args:
        session: The session.
    """

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    @property
    def tenant_id(self) -> UUID:
        """The session's tenant.

        Raises:
            NoTenantError: The session has none, and there is no current tenant.
        """
        return self._session.tenant_id

    async def call(self, call: Call[Any], *arguments: Any) -> list[Any]:
        """Send a call with the session's tenant and these arguments, and return its rows.

        Raises:
            SchemaDriftError: The database does not have the function.
        """
        try:
            return await records(self._session, call, (self.tenant_id, *arguments))
        except SchemaDriftError as error:
            raise_if_missing(call, error)
            raise

    async def entities(self, call: Call[Any], model: type[ModelT], *arguments: Any, refresh: bool) -> list[ModelT]:
        """Send a call that returns the columns of `entity_columns`, and return its rows as the session's entities.

        Args:
            call: The call.
            model: The mapped class.
            arguments: The arguments of the function after the tenant.
            refresh: Set all attributes of an entity that the session has already; else only expired ones.
        """
        return self.load_records(model, await self.call(call, *arguments), refresh=refresh)

    def load(self, model: type[ModelT], rows: Sequence[Mapping[str, Any]], *, refresh: bool) -> list[ModelT]:
        """Return the session's entities of rows whose values are known, without sending a statement.

        Args:
            model: The mapped class.
            rows: The values of all columns by the column's name, as the driver returns them (JSON is decoded).
            refresh: Set all attributes of an entity that the session has already; else only expired ones.
        """
        names = entity_columns(model)()
        return self.load_records(model, [[row[name] for name in names] for row in rows], refresh=refresh)

    def load_records(
        self, model: type[ModelT], records: Sequence[Sequence[Any]], *, refresh: bool = True
    ) -> list[ModelT]:
        """Return the session's entities of records that begin with the columns of `entity_columns`."""
        return entities_of(model).load(self._session.sync_session, records, refresh=refresh)

    def refresh(self, model: type[TenantBase], row_id: UUID, **values: Any) -> None:
        """Set attributes of an entity to the values that the server has now, if the session has the entity."""
        sync = self._session.sync_session
        entity = sync.identity_map.get(sync.identity_key(model, (self.tenant_id, row_id)))
        if entity is not None:
            for name, value in values.items():
                set_committed_value(entity, name, value)


def entity_columns(model: type[TenantBase]) -> Callable[[], list[str]]:
    """Return a function that returns the columns of a model's entities: mappers are configured at the first call."""
    return lambda: [column.name for column in entities_of(model).columns]
