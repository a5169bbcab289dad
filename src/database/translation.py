"""The translation of the driver's errors into this package's: by SQLSTATE and the server's error fields."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from typing import Final, Literal

import asyncpg

from src.database.errors import (
    AuthenticationFailed,
    CheckViolation,
    ConnectionFailed,
    DatabaseError,
    DatabaseMissing,
    DeadlockError,
    DuplicateKeyError,
    ForeignKeyError,
    IntegrityError,
    LockNotAvailable,
    QueryTimeout,
    SchemaChangedError,
    SchemaDriftError,
    SerializationError,
    TenantMismatchError,
    TlsFailed,
    TransactionAborted,
)

Encryption = Literal["TLS", "plaintext", "Unix socket"]

# SQLSTATE, or its two-character class, to the error: https://www.postgresql.org/docs/18/errcodes-appendix.html
_BY_SQLSTATE: Final[dict[str, tuple[type[DatabaseError], str]]] = {
    "08": (ConnectionFailed, "the connection to the server was lost"),
    "22": (DatabaseError, "the server refused a value"),
    "23": (IntegrityError, "a rule of the schema refused the row"),
    "23502": (CheckViolation, "a column must not be null"),
    "23001": (ForeignKeyError, "other rows still refer to the row"),
    "23503": (ForeignKeyError, "the row refers to a row that does not exist, or other rows still refer to it"),
    "23505": (DuplicateKeyError, "a row with this key is there already"),
    "23514": (CheckViolation, "a check refused the row"),
    "25006": (DatabaseError, "the transaction is read-only"),
    "25P03": (QueryTimeout, "the server ended the transaction, which was idle for longer than its limit"),
    "25P04": (QueryTimeout, "the server ended the transaction, which took longer than its limit"),
    "28": (AuthenticationFailed, "the server refused the user or the password"),
    "3F000": (DatabaseError, "the schema does not exist"),
    "3D000": (DatabaseMissing, "the database does not exist"),
    "40001": (SerializationError, "the transaction conflicts with another one"),
    "40P01": (DeadlockError, "the transaction and another one waited for each other"),
    "42501": (DatabaseError, "the role lacks the right to do this"),
    "42703": (SchemaDriftError, "a column is missing"),
    "42883": (SchemaDriftError, "a function is missing"),
    "42P01": (SchemaDriftError, "a table is missing"),
    "53100": (DatabaseError, "the server's disk is full"),
    "53200": (DatabaseError, "the server is out of memory"),
    "53300": (ConnectionFailed, "the server has no connection free"),
    "53400": (DatabaseError, "a limit of the server's configuration is exceeded"),
    "55P03": (LockNotAvailable, "the lock was not free within its limit"),
    "57014": (QueryTimeout, "the statement was cancelled"),
    "TH001": (TenantMismatchError, "the transaction is bound to another tenant"),
    "57P": (ConnectionFailed, "the server is shutting down or starting up"),
}
_AGAIN: Final = "run the whole unit of work again, as `run_transaction` does"
_HINTS: Final[dict[type[DatabaseError], str]] = {
    SchemaDriftError: "`thea-db verify` names each difference from this release and its remedy: `thea-db upgrade` where"
    " the schema is behind",
    AuthenticationFailed: "check the user and the password, whose sources `thea-db info` shows; if the role does not"
    " exist yet, `thea-db bootstrap` creates it",
    DatabaseMissing: "check the database's name; if the database does not exist yet, `thea-db bootstrap` creates it",
    LockNotAvailable: "`thea-db activity` shows which session holds the lock; run the unit of work again once that"
    " session's transaction has ended",
    SerializationError: _AGAIN,
    DeadlockError: _AGAIN,
    SchemaChangedError: _AGAIN,
}
_SQLSTATE_HINTS: Final = {
    "3F000": "correct the name in the statement, or in the search_path",
    "25006": "write through get_db: get_read_db reads, and a replica takes no writes",
    "42501": "`thea-db doctor` reports which rights the role lacks, with the GRANT for each",
    "57014": "if a time limit ended it: a narrower statement, or a higher DATABASE_STATEMENT_TIMEOUT; `thea-db"
    " activity` shows what a statement waits for",
    "53100": "free space on the volume of the server's data, or enlarge it; what is committed is kept, and the server"
    " accepts writes again once there is space",
    "53200": "fewer connections (`thea-db pool`), a smaller work_mem, or more memory for the server",
    "25P03": "do not wait for a model or another service inside a transaction; the limit is the server's"
    " idle_in_transaction_session_timeout, which DATABASE_IDLE_TRANSACTION_TIMEOUT sets",
    "25P04": "a shorter transaction, or a higher transaction_timeout of the server",
    "53300": "fewer or smaller pools (`thea-db pool`), PgBouncer, or a larger max_connections",
    "53400": "narrow the query, or raise the limit: temp_file_limit for a sort or a hash that does not fit",
}
_CONSTRAINT_HINTS: Final = {
    "fk_users_tenant_id": "the tenant is not registered: add a Tenant row with its id first",
}
_REFUSED_BY_A_POOLER: Final = "unsupported startup parameter"
# The class of an error, or words in its text; the reason; the remedy.
_REASONS: Final[tuple[tuple[tuple[type[BaseException], ...], str, str, str], ...]] = (
    (
        (asyncpg.TargetServerAttributeNotMatched,),
        "",
        "it is not what target_session_attrs asks for",
        "after a failover another host is promoted in a moment; name all hosts in the URL",
    ),
    (
        (),
        _REFUSED_BY_A_POOLER,
        "PgBouncer, or another pooler, takes no time limits when a connection starts",
        "set DATABASE_PGBOUNCER=true; migrations need the server itself, in DATABASE_MIGRATION_URL",
    ),
    ((), "during SSL exchange", "it answered the request for TLS with an error", "its log says why"),
    ((TimeoutError,), "", "it did not answer in time", "check the host, the port and the firewall"),
    (
        (socket.gaierror, UnicodeError),
        "",
        "the host is not known",
        "check the host's name; `thea-db doctor` looks further",
    ),
    (
        (ConnectionRefusedError, FileNotFoundError),
        "Connect call failed",
        "nothing listens there",
        "check that the server runs, and the host and the port; `thea-db doctor` looks further",
    ),
    (
        (),
        "unexpected connection_lost",
        "it closed the connection at once",
        "check that PostgreSQL is what listens there",
    ),
)
_ABORTED: Final = "25P02"
_NAMED_BY_POSITION: Final = {"42703": "column", "42P01": "table"}
"""The server reports only the position of these in the statement."""
_NAME: Final = re.compile(r'(?:"(?:[^"]|"")*"|[^\W\d][\w$]*)(?:\.(?:"(?:[^"]|"")*"|[^\W\d][\w$]*))*')
# The server translates its messages (lc_messages), but not the names of its source files and functions.
_CHECKS_POLICIES: Final = "ExecWithCheckOptions"
"""The server's function that refuses a row because of a policy; its SQLSTATE is that of a missing privilege."""
_LOOK_UP_OPERATORS: Final = frozenset({"arrayfuncs.c", "parse_oper.c", "rowtypes.c"})
"""The server's files that report a missing operator; its SQLSTATE is that of a missing function."""
_CHOOSE_WHERE_TO_CREATE: Final = "CreationNamespace"
"""Part of the names of the server's functions that find no schema of the search_path to create a table in."""
_CHECKS_PG_HBA: Final = "ClientAuthentication"
"""The server's function that refuses a connection because of pg_hba.conf, before it asks for a password."""
_LOOKS_UP_THE_ROLE: Final = "InitializeSessionUserId"
"""The server's function that refuses a role that does not exist, or that may not log in."""
_NOT_ALLOWED_IN: Final = "28000"
_SEARCH_PATH: Final = (
    "the role, the database or `options` in the URL sets the search_path (`thea-db doctor` shows which): name a schema"
    " that exists there, or create it with CREATE SCHEMA"
)
_PG_HBA_LINE: Final = (
    "an administrator adds a line for this user, database and address to pg_hba.conf, with scram-sha-256 and never with"
    " trust"
)


def translate(error: BaseException, statement: str | None = None) -> DatabaseError | None:
    """Return our error for an error of the server, or None if the error is not one.

    Args:
        error: What the driver raised, or SQLAlchemy's error around it.
        statement: The SQL that was sent; the server reports a missing column or table by its position in the SQL.

    The server's own text is left out of the message if it can quote data ("invalid input syntax for type
    integer: ..."); its code and the names of the constraint, table and column do.
    """
    origin = _origin(error)
    sqlstate = getattr(origin, "sqlstate", None)
    if not isinstance(sqlstate, str):
        return None
    if sqlstate == _ABORTED:
        _redact(error)
        return TransactionAborted("a statement", sqlstate=sqlstate)
    (kind, message), remedy = _lookup(sqlstate), _SQLSTATE_HINTS.get(sqlstate)
    if isinstance(origin, asyncpg.InvalidCachedStatementError):
        kind, message = SchemaChangedError, "the schema has changed under a prepared statement"
    if sqlstate == "42883" and getattr(origin, "server_source_filename", None) in _LOOK_UP_OPERATORS:
        kind, message = DatabaseError, "no operator takes values of these types"
    if sqlstate == "3F000" and _CHOOSE_WHERE_TO_CREATE in str(_function_of(origin)):
        message, remedy = "no schema of the search_path exists", _SEARCH_PATH
    if sqlstate == "42501" and _function_of(origin) == _CHECKS_POLICIES:
        kind, message = CheckViolation, "row-level security refused the row: its tenant_id is not the current tenant's"
        remedy = "write the row in a session of its own tenant (`tenant_context`)"
    elif _speaks_of_names_alone(sqlstate):
        message = f"{message}: {origin.args[0]}"
    constraint = getattr(origin, "constraint_name", None)
    places = {
        "constraint": constraint,
        "table": getattr(origin, "table_name", None),
        "column": getattr(origin, "column_name", None),
    }
    if (missing := _NAMED_BY_POSITION.get(sqlstate)) is not None:
        places[missing] = places[missing] or _name_at_position(origin, statement)
    where = ", ".join(f"{place} {name}" for place, name in places.items() if name) or f"SQLSTATE {sqlstate}"
    _redact(error)
    hint = _CONSTRAINT_HINTS.get(constraint or "") or remedy or _HINTS.get(kind)
    translated = kind(f"{message} ({where})", sqlstate=sqlstate, constraint=constraint, hint=hint)
    translated.came_from_server = getattr(origin, "severity", None) is not None  # the driver refuses values too
    return translated


def translate_connect(error: BaseException, *, where: str, encryption: Encryption | None = None) -> DatabaseError:
    """Return our error for what a connection attempt raised.

    Args:
        error: What the attempt raised.
        where: Names the target, without its password.
        encryption: How the attempt was encrypted; None: not known.
    """
    if isinstance(error, DatabaseError):
        return error
    if refused := _refused_tls(error, where):
        return refused
    if not _is_refused_by_a_pooler(error) and (answered := translate(error)):
        if answered.sqlstate == _NOT_ALLOWED_IN:
            return _refused_before_a_password(error, where, encryption)
        return type(answered)(f"{where}: {answered.args[0]}", sqlstate=answered.sqlstate, hint=answered.hint)
    reason, remedy = _reason_of_no_connection(error)
    return ConnectionFailed(f"no connection to {where}: {reason}", hint=remedy)


def _refused_before_a_password(error: BaseException, where: str, encryption: Encryption | None) -> AuthenticationFailed:
    """Return the error for SQLSTATE 28000, which has several causes: the server's function tells which one it was."""
    function = _function_of(_origin(error))
    message = _BY_SQLSTATE["28"][1]
    if function == _LOOKS_UP_THE_ROLE:
        message = f"{message}: it has no such role, or the role may not log in"
        hint = "check the user; `thea-db bootstrap` creates the roles; ALTER ROLE ... LOGIN lets a role log in"
    elif encryption == "plaintext":
        hint = (
            "connect with TLS: sslmode=require in the URL, or DATABASE_SSL_MODE=require, and verify-full once the CA's"
            f" certificate is at hand (DATABASE_SSL_CA). If the server refuses TLS too, {_PG_HBA_LINE}"
        )
    elif encryption == "TLS":
        hint = f"{_PG_HBA_LINE}; if its line asks for a client certificate, set DATABASE_SSL_CERT and DATABASE_SSL_KEY"
    else:
        hint = f"check the user; {_PG_HBA_LINE}"
    if function == _CHECKS_PG_HBA:
        message = "the server's pg_hba.conf does not allow this connection"
    return AuthenticationFailed(f"{where}: {message}", sqlstate=_NOT_ALLOWED_IN, hint=hint)


def _refused_tls(error: BaseException, where: str) -> TlsFailed | None:
    if isinstance(error, ssl.SSLError):  # an OSError too, so it is looked for first
        reason = getattr(error, "verify_message", "") or error.reason or "the handshake failed"
        return TlsFailed(f"TLS to {where} failed: {reason}", hint="check the CA file, the host's name and the mode")
    if "rejected SSL upgrade" in str(error):
        return TlsFailed(f"{where} does not speak TLS", hint="TLS is required here; let the server speak it")
    return None


def _is_refused_by_a_pooler(error: BaseException) -> bool:
    return isinstance(error, asyncpg.ProtocolViolationError) and _REFUSED_BY_A_POOLER in str(error)


def _reason_of_no_connection(error: BaseException) -> tuple[str, str | None]:
    for kinds, words, reason, remedy in _REASONS:
        if isinstance(error, kinds) or (words and words in str(error)):
            return reason, remedy
    if isinstance(error, OSError) and error.errno:
        return errno.errorcode.get(error.errno, type(error).__name__), None
    return type(error).__name__, None


def _lookup(sqlstate: str) -> tuple[type[DatabaseError], str]:
    for length in (5, 3, 2):
        if found := _BY_SQLSTATE.get(sqlstate[:length]):
            return found
    return DatabaseError, "the server refused the statement"


def _speaks_of_names_alone(sqlstate: str) -> bool:
    """Return True if the server's text quotes names and no values: class 42, except a syntax error."""
    return sqlstate.startswith("42") and sqlstate != "42601"


def _name_at_position(origin: BaseException, statement: str | None) -> str | None:
    """Return the name at the position that the server reports, in the statement or in that of a function."""
    sent, place = statement, getattr(origin, "position", None)
    if place is None:
        sent, place = getattr(origin, "internal_query", None), getattr(origin, "internal_position", None)
    if sent is None or place is None:
        return None
    found = _NAME.match(sent, int(place) - 1)
    return found[0] if found else None


def _origin(error: BaseException) -> BaseException:
    """Return the driver's own error, which SQLAlchemy wraps once or twice."""
    while not hasattr(error, "constraint_name") and error.__cause__ is not None:
        error = error.__cause__
    return error


def _function_of(origin: BaseException) -> object:
    """Return the server's function that raised the error, or None."""
    return getattr(origin, "server_source_function", None)


def _redact(error: BaseException) -> None:
    """Remove the server's text from the chain that a traceback prints; codes and names stay."""
    seen: set[int] = set()
    link: BaseException | None = error
    is_below_the_driver = False  # what made it refuse a value quotes that value
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if isinstance(sqlstate := getattr(link, "sqlstate", None), str):
            link.args = (f"SQLSTATE {sqlstate} (the server's text is withheld: it can quote data)",)
            for attribute in ("message", "detail", "hint", "context", "query", "internal_query"):
                if getattr(link, attribute, None) is not None:
                    setattr(link, attribute, None)
            is_below_the_driver = True
        elif is_below_the_driver:
            link.args = ("withheld: it can quote data",)
        link = link.__cause__ or link.__context__
