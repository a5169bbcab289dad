"""From a Target to a connection of the driver: TLS, SSH, Cloud SQL, passwords."""

from src.database.connect.codec import decode_jsonb
from src.database.connect.command import command_connection
from src.database.connect.connection import DRIVER_ERRORS, PgBouncerConnection
from src.database.connect.connector import Connector, connect
from src.database.connect.naming import connection_name
from src.database.connect.password import PasswordProvider, find_provider
from src.database.connect.search_path import TEMPORARY_LAST, search_temporary_last
from src.database.connect.to_its_end import to_its_end

__all__ = [
    "DRIVER_ERRORS",
    "TEMPORARY_LAST",
    "Connector",
    "PasswordProvider",
    "PgBouncerConnection",
    "command_connection",
    "connect",
    "connection_name",
    "decode_jsonb",
    "find_provider",
    "search_temporary_last",
    "to_its_end",
]
