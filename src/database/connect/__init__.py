"""From a Target to a connection of the driver: TLS, SSH, Cloud SQL, passwords."""

from src.database.connect.asyncpg_internals import BoundTransaction
from src.database.connect.cloudsql import check_is_mounted
from src.database.connect.connection import DRIVER_ERRORS, ConnectionState, PgBouncerConnection, fatal_error
from src.database.connect.connector import Connector, command_connection
from src.database.connect.drivers import Driver, asyncpg_arguments, psycopg_arguments
from src.database.connect.libpq import libpq_environment
from src.database.connect.password import PasswordProvider, find_provider, with_password
from src.database.connect.setup import TEMPORARY_LAST, connection_name, decode_jsonb, search_temporary_last
from src.database.connect.shielded import run_shielded

__all__ = [
    "DRIVER_ERRORS",
    "TEMPORARY_LAST",
    "BoundTransaction",
    "ConnectionState",
    "Connector",
    "Driver",
    "PasswordProvider",
    "PgBouncerConnection",
    "asyncpg_arguments",
    "check_is_mounted",
    "command_connection",
    "connection_name",
    "decode_jsonb",
    "fatal_error",
    "find_provider",
    "libpq_environment",
    "psycopg_arguments",
    "run_shielded",
    "search_temporary_last",
    "with_password",
]
