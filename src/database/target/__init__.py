"""From a URL to a Target: where the database is and how it is reached."""

from src.database.target.target import PoolLimits, Route, SshGateway, Target
from src.database.target.url import Host, SessionAttributes, SslMode, hosts_of, parse_url, warnings_of

__all__ = [
    "Host",
    "PoolLimits",
    "Route",
    "SessionAttributes",
    "SshGateway",
    "SslMode",
    "Target",
    "hosts_of",
    "parse_url",
    "warnings_of",
]
