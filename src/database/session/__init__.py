"""Sessions: get_db, get_read_db, run_transaction, tenant_context; the targets and engines of the settings."""

from src.database.session.binding import TenantBinding
from src.database.session.connect_arguments import get_connect_arguments
from src.database.session.engines import (
    call_at_shutdown,
    dispose_engines,
    engines_of_loop,
    forget_settings,
    get_engine,
    has_replica,
    open_connection,
    reset_process_state,
    tenant_binding,
)
from src.database.session.reading import WRITTEN, ReadSession, ReadTenantSession
from src.database.session.replacement import replace_sessions
from src.database.session.scopes import AsyncSessionLocal, SessionScope, engine, get_db, get_read_db
from src.database.session.session import AsyncSession, TenantSession
from src.database.session.targets import create_engine, named_provider, pool_limits, reach_target, resolve_target
from src.database.session.transaction_status import commit_refused
from src.database.session.transactions import Isolation, Retry, run_transaction
from src.database.tenant_scope import current_tenant, given_tenant, tenant_context

__all__ = [
    "WRITTEN",
    "AsyncSession",
    "AsyncSessionLocal",
    "Isolation",
    "ReadSession",
    "ReadTenantSession",
    "Retry",
    "SessionScope",
    "TenantBinding",
    "TenantSession",
    "call_at_shutdown",
    "commit_refused",
    "create_engine",
    "current_tenant",
    "dispose_engines",
    "engine",
    "engines_of_loop",
    "forget_settings",
    "get_connect_arguments",
    "get_db",
    "get_engine",
    "get_read_db",
    "given_tenant",
    "has_replica",
    "named_provider",
    "open_connection",
    "pool_limits",
    "reach_target",
    "replace_sessions",
    "reset_process_state",
    "resolve_target",
    "run_transaction",
    "tenant_binding",
    "tenant_context",
]
