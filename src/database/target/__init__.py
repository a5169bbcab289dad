"""From a URL to a Target: where the database is and how it is reached."""

from src.database.target.libpq import NO_FILE, host_parameters, libpq_parameters, options_of
from src.database.target.target import PoolLimits, Route, SshGateway, Target
from src.database.target.url import Host, SessionAttributes, SslMode, hosts_of, parse_url, warnings_of

__all__ = [
    "NO_FILE",
    "Host",
    "PoolLimits",
    "Route",
    "SessionAttributes",
    "SshGateway",
    "SslMode",
    "Target",
    "host_parameters",
    "hosts_of",
    "libpq_parameters",
    "options_of",
    "parse_url",
    "warnings_of",
]
