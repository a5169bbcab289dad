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

# SQLSTATE, or its class of two or three characters: https://www.postgresql.org/docs/18/errcodes-appendix.html
_BY_SQLSTATE: Final[dict[str, tuple[type[DatabaseError], str]]] = {
    "08": (ConnectionFailed, "the connection to the server was lost"),
    "22": (DatabaseError, "the server refused a value"),
    "23": (IntegrityError, "a constraint of the schema refused the row"),
    "23001": (ForeignKeyError, "other rows still refer to the row"),
    "23502": (CheckViolation, "a column must not be null"),
    "23503": (ForeignKeyError, "the row refers to a row that does not exist, or other rows still refer to it"),
    "23505": (DuplicateKeyError, "a row with this key already exists"),
    "23514": (CheckViolation, "a check refused the row"),
    "25006": (DatabaseError, "the transaction is read-only"),
    "25P03": (QueryTimeout, "the server ended the transaction, which was idle for longer than its limit"),
    "25P04": (QueryTimeout, "the server ended the transaction, which took longer than its limit"),
    "28": (AuthenticationFailed, "the server refused the user or the password"),
    "3F000": (DatabaseError, "the schema does not exist"),
    "3D000": (DatabaseMissing, "the database does not exist"),
    "40001": (SerializationError, "the transaction conflicts with another transaction"),
    "40P01": (DeadlockError, "the transaction and another transaction waited for each other"),
    "42501": (DatabaseError, "the role lacks a privilege"),
    "42703": (SchemaDriftError, "a column is missing"),
    "42883": (SchemaDriftError, "a function is missing"),
    "42P01": (SchemaDriftError, "a table is missing"),
    "53100": (DatabaseError, "the server's disk is full"),
    "53200": (DatabaseError, "the server is out of memory"),
    "53300": (ConnectionFailed, "the server has no free connection"),
    "53400": (DatabaseError, "a limit of the server's configuration is exceeded"),
    "55P03": (LockNotAvailable, "the lock was not released within the time limit"),
    "57014": (QueryTimeout, "the statement was cancelled"),
    "57P": (ConnectionFailed, "the server is shutting down or starting up"),
    "TH001": (TenantMismatchError, "the transaction is bound to another tenant"),  # of this package's functions
}
_RUN_AGAIN: Final = "run the whole unit of work again, as `run_transaction` does"
_VERIFY: Final = (
    "`thea-db verify` lists each difference from the schema of this release, with its remedy: `thea-db upgrade` if the"
    " schema is of an earlier release"
)
_HINTS: Final = {
    "25006": "write through get_db: sessions of get_read_db, and replicas, accept no writes",
    "25P03": "do not wait for a language model or another service inside a transaction; the limit is the server's"
    " idle_in_transaction_session_timeout, which DATABASE_IDLE_TRANSACTION_TIMEOUT sets",
    "25P04": "use a shorter transaction, or a higher transaction_timeout of the server",
    "28": "check the user and the password, whose sources `thea-db info` shows; `thea-db bootstrap` creates a role that"
    " does not exist yet",
    "3F000": "correct the name in the statement, or in the search_path",
    "3D000": "check the database's name; `thea-db bootstrap` creates a database that does not exist yet",
    "40001": _RUN_AGAIN,
    "40P01": _RUN_AGAIN,
    "42501": "`thea-db doctor` reports which privileges the role lacks, with the GRANT for each",
    "42703": _VERIFY,
    "42883": _VERIFY,
    "42P01": _VERIFY,
    "53100": "free space on the volume of the server's data, or enlarge the volume; committed data is kept, and the"
    " server accepts writes again once there is space",
    "53200": "use fewer connections (`thea-db pool`), a smaller work_mem, or more memory for the server",
    "53300": "use fewer or smaller pools (`thea-db pool`), PgBouncer, or a larger max_connections",
    "53400": "narrow the query, or raise the limit: temp_file_limit for a sort or a hash that does not fit into memory",
    "55P03": "`thea-db activity` shows which session holds the lock; run the unit of work again once that session's"
    " transaction has ended",
    "57014": "if a time limit cancelled it, narrow the statement or raise DATABASE_STATEMENT_TIMEOUT; `thea-db"
    " activity` shows what a statement waits for",
}
_CONSTRAINT_HINTS: Final = {
    "fk_users_tenant_id": "the tenant is not registered: add a Tenant row with its id first",
    "uq_conversations_tenant_id_session_id": "session ids are unique within a tenant: pass another one",
}
_REFUSED_BY_POOLER: Final = "unsupported startup parameter"
# The class of an error, or words in its text; the reason; the remedy.
_REASONS: Final[tuple[tuple[tuple[type[BaseException], ...], str, str, str], ...]] = (
    (
        (asyncpg.TargetServerAttributeNotMatched,),
        "",
        "the server does not have the role that target_session_attrs requires",
        "after a failover, another host is promoted within moments; name all hosts in the URL",
    ),
    (
        (),
        _REFUSED_BY_POOLER,
        "PgBouncer, or another pooler, accepts no time limits when a connection starts",
        "set DATABASE_PGBOUNCER=true; migrations need the server itself, in DATABASE_MIGRATION_URL",
    ),
    ((), "during SSL exchange", "the server answered the request for TLS with an error", "see the server's log"),
    ((TimeoutError,), "", "the server did not answer in time", "check the host, the port and the firewall"),
    ((socket.gaierror, UnicodeError), "", "the host is not known", "check the host's name; see `thea-db doctor`"),
    (
        (ConnectionRefusedError, FileNotFoundError),
        "Connect call failed",
        "nothing listens there",
        "check that the server runs, and the host and the port; see `thea-db doctor`",
    ),
    (
        (),
        "unexpected connection_lost",
        "the server closed the connection immediately",
        "check that PostgreSQL listens on that port",
    ),
)
_ABORTED: Final = "25P02"
_NAMED_BY_POSITION: Final = {"42703": "column", "42P01": "table"}
"""For these, the server reports only the position of the name in the statement."""
_NAME: Final = re.compile(r'(?:"(?:[^"]|"")*"|[^\W\d][\w$]*)(?:\.(?:"(?:[^"]|"")*"|[^\W\d][\w$]*))*')
# Some SQLSTATEs have several causes. The server translates its messages (lc_messages), but not the names of its source
# files and functions, which tell the causes apart.
_CHECKS_POLICIES: Final = "ExecWithCheckOptions"
"""The function that refuses a row because of a policy, with the SQLSTATE of a missing privilege."""
_LOOK_UP_OPERATORS: Final = frozenset({"arrayfuncs.c", "parse_oper.c", "rowtypes.c"})
"""The files that report a missing operator, with the SQLSTATE of a missing function."""
_CHOOSE_WHERE_TO_CREATE: Final = "CreationNamespace"
"""A part of the names of the functions that find no schema of the search_path in which to create a table."""
_READS_EXTENSIONS: Final = "extension.c"
"""The file that reports an extension that is not installed, with the SQLSTATE of an unsupported feature."""
_CHECKS_PG_HBA: Final = "ClientAuthentication"
"""The function that refuses a connection because of pg_hba.conf, before the server requests a password."""
_LOOKS_UP_THE_ROLE: Final = "InitializeSessionUserId"
"""The function that refuses a role that does not exist, or that may not log in."""
_REFUSED_AT_LOGIN: Final = "28000"
_SEARCH_PATH: Final = (
    "the role, the database or `options` in the URL sets the search_path (`thea-db doctor` shows which): name a schema"
    " that exists, or create the schema with CREATE SCHEMA"
)
_PG_HBA_LINE: Final = (
    "ask an administrator to add a line for this user, database and address to pg_hba.conf, with scram-sha-256 and"
    " never with trust"
)


def translate(error: BaseException, statement: str | None = None) -> DatabaseError | None:
    """Return our error for an error of the server, or None if the server has not reported one.

    The server's own text is left out of the message if it can quote data ("invalid input syntax for type
    integer: ..."). The message has the SQLSTATE, or the names of the constraint, table and column.

    Args:
        error: The driver's error, or SQLAlchemy's error with the driver's as its cause. The server's text is removed
            from it, since tracebacks show it.
        statement: The SQL that was sent; the server reports a missing column or table by its position in the SQL.
    """
    origin = _origin(error)
    sqlstate = getattr(origin, "sqlstate", None)
    if not isinstance(sqlstate, str):
        return None
    if sqlstate == _ABORTED:
        _redact(error)
        return TransactionAborted("a statement", sqlstate=sqlstate)
    kind, message, hint = _meaning(origin, sqlstate)
    constraint = getattr(origin, "constraint_name", None)
    names = {
        "constraint": constraint,
        "table": getattr(origin, "table_name", None),
        "column": getattr(origin, "column_name", None),
    }
    if (missing := _NAMED_BY_POSITION.get(sqlstate)) is not None:
        names[missing] = names[missing] or _name_at_position(origin, statement)
    where = ", ".join(f"{what} {name}" for what, name in names.items() if name) or f"SQLSTATE {sqlstate}"
    _redact(error)
    hint = _CONSTRAINT_HINTS.get(constraint or "") or hint
    translated = kind(f"{message} ({where})", sqlstate=sqlstate, constraint=constraint, hint=hint)
    translated.came_from_server = getattr(origin, "severity", None) is not None  # the driver refuses values too
    return translated


def _meaning(origin: BaseException, sqlstate: str) -> tuple[type[DatabaseError], str, str | None]:
    """Return the error, the message and the hint for a SQLSTATE and the place in the server that raised it."""
    function = str(getattr(origin, "server_source_function", None))
    # The SQLSTATE is 0A000, feature_not_supported: asyncpg recognizes the function RevalidateCachedQuery.
    if isinstance(origin, asyncpg.InvalidCachedStatementError):
        return SchemaChangedError, "the schema has changed under a prepared statement", _RUN_AGAIN
    if sqlstate == "42501" and function == _CHECKS_POLICIES:
        message = "row-level security refused the row: its tenant_id is not the current tenant's"
        return CheckViolation, message, "write the row in a session of its own tenant (`tenant_context`)"
    key = next((key for key in (sqlstate, sqlstate[:3], sqlstate[:2]) if key in _BY_SQLSTATE), sqlstate)
    kind, message = _BY_SQLSTATE.get(key, (DatabaseError, "the server refused the statement"))
    hint = _HINTS.get(key)
    if sqlstate == "42883" and getattr(origin, "server_source_filename", None) in _LOOK_UP_OPERATORS:
        kind, message, hint = DatabaseError, "no operator accepts values of these types", None
    if sqlstate == "3F000" and _CHOOSE_WHERE_TO_CREATE in function:
        message, hint = "no schema of the search_path exists", _SEARCH_PATH
    if sqlstate == "0A000" and getattr(origin, "server_source_filename", None) == _READS_EXTENSIONS:
        message = f"{message}: {origin.args[0]}"
        hint = "install the extension on the server, or allow the extension in the settings of a managed server"
    # The server's text of class 42 has names and no values, except for a syntax error, which quotes the statement.
    if sqlstate.startswith("42") and sqlstate != "42601":
        message = f"{message}: {origin.args[0]}"
    return kind, message, hint


def translate_connect(error: BaseException, *, where: str, encryption: Encryption | None = None) -> DatabaseError:
    """Return our error for the error of a connection attempt.

    Args:
        error: The error of the attempt.
        where: Names the target, without its password.
        encryption: How the attempt was encrypted; None if that is not known.
    """
    if isinstance(error, DatabaseError):
        return error
    if isinstance(error, ssl.SSLError):  # before the others, since an SSLError is an OSError
        reason = getattr(error, "verify_message", "") or error.reason or "the handshake failed"
        return TlsFailed(f"TLS to {where} failed: {reason}", hint="check the CA file, the host's name and sslmode")
    if "rejected SSL upgrade" in str(error):
        hint = "TLS is required here: enable it on the server (`ssl = on`)"
        return TlsFailed(f"{where} does not support TLS", hint=hint)
    is_of_pooler = isinstance(error, asyncpg.ProtocolViolationError) and _REFUSED_BY_POOLER in str(error)
    if not is_of_pooler and (answer := translate(error)):
        if answer.sqlstate == _REFUSED_AT_LOGIN:
            return _refused_at_login(error, where, encryption)
        return type(answer)(f"{where}: {answer.args[0]}", sqlstate=answer.sqlstate, hint=answer.hint)
    reason, remedy = _reason_of_no_connection(error)
    return ConnectionFailed(f"no connection to {where}: {reason}", hint=remedy)


def _refused_at_login(error: BaseException, where: str, encryption: Encryption | None) -> AuthenticationFailed:
    """Return the error for SQLSTATE 28000, whose cause is in the name of the server's function."""
    function = getattr(_origin(error), "server_source_function", None)
    message = _BY_SQLSTATE["28"][1]
    if function == _LOOKS_UP_THE_ROLE:
        message = f"{message}: the role does not exist, or may not log in"
        hint = "check the user; `thea-db bootstrap` creates the roles; ALTER ROLE ... LOGIN permits a role to log in"
    elif encryption == "plaintext":
        hint = (
            "connect with TLS: sslmode=require in the URL, or DATABASE_SSL_MODE=require, or verify-full with the"
            f" certificate of the CA (DATABASE_SSL_CA). If the server refuses TLS too, {_PG_HBA_LINE}"
        )
    elif encryption == "TLS":
        hint = (
            f"{_PG_HBA_LINE}; if such a line exists and requires a client certificate, set DATABASE_SSL_CERT and"
            " DATABASE_SSL_KEY"
        )
    else:
        hint = f"check the user; {_PG_HBA_LINE}"
    if function == _CHECKS_PG_HBA:
        message = "the server's pg_hba.conf does not allow this connection"
    return AuthenticationFailed(f"{where}: {message}", sqlstate=_REFUSED_AT_LOGIN, hint=hint)


def _reason_of_no_connection(error: BaseException) -> tuple[str, str | None]:
    for kinds, words, reason, remedy in _REASONS:
        if isinstance(error, kinds) or (words and words in str(error)):
            return reason, remedy
    if isinstance(error, OSError) and error.errno:
        return errno.errorcode.get(error.errno, type(error).__name__), None
    return type(error).__name__, None


def _name_at_position(origin: BaseException, statement: str | None) -> str | None:
    """Return the name at the position that the server reports, in the statement or in the query of a function."""
    sent, position = statement, getattr(origin, "position", None)
    if position is None:
        sent, position = getattr(origin, "internal_query", None), getattr(origin, "internal_position", None)
    if sent is None or position is None:
        return None
    match = _NAME.match(sent, int(position) - 1)
    return match[0] if match else None


def _origin(error: BaseException) -> BaseException:
    """Return the driver's error, which SQLAlchemy wraps once or twice."""
    # Only asyncpg's own errors have this attribute; SQLAlchemy's adapter copies only the SQLSTATE.
    while not hasattr(error, "constraint_name") and error.__cause__ is not None:
        error = error.__cause__
    return error


def _redact(error: BaseException) -> None:
    """Remove the server's text from the errors that a traceback shows; SQLSTATEs and names stay."""
    seen: set[int] = set()
    link: BaseException | None = error
    is_below_the_driver = False  # for example the ValueError of a codec, which quotes the value
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
