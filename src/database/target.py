"""Target: where the database is and how it is reached, parsed once; it renders itself without its password."""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Final, Literal, Self, cast, get_args

from sqlalchemy.engine import URL

from src.database.errors import ConfigurationError

__all__ = ["SslMode", "Target"]

SslMode = Literal["disable", "require", "verify-ca", "verify-full"]
SSL_MODES: Final[tuple[str, ...]] = get_args(SslMode)

_PARAMETERS: Final = ("application_name", "connect_timeout", "host", "port", "sslmode", "sslrootcert")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One database as one user. Times are in seconds; None leaves a choice to whoever connects."""

    host: str
    """A host name, an address, or the folder of a Unix socket."""
    database: str
    user: str
    port: int = 5432
    password: str | None = field(default=None, repr=False)
    ssl_mode: SslMode | None = None
    ssl_ca: Path | None = None
    application_name: str | None = None
    connect_timeout: float | None = None

    @classmethod
    def from_url(cls, url: URL) -> Self:
        """Read a URL; what it does not say, its parameters included, stays None or the default.

        Raises:
            ConfigurationError: A parameter is unknown or cannot be read.
        """
        query = _single_values(url)
        host = query.get("host") or url.host or "localhost"
        ssl_mode = query.get("sslmode")
        if ssl_mode is not None and ssl_mode not in SSL_MODES:
            raise ConfigurationError(f"sslmode in the URL must be one of {', '.join(SSL_MODES)}, got {ssl_mode!r}")
        ca = query.get("sslrootcert")
        timeout = query.get("connect_timeout")
        if not url.username:
            raise ConfigurationError("the database URL must name a user: postgresql://user:password@host/name")
        return cls(
            host=host,
            port=_number("port", query["port"]) if "port" in query else url.port or 5432,
            database=url.database or "",
            user=url.username,
            password=str(url.password) if url.password is not None else None,
            ssl_mode=cast("SslMode | None", ssl_mode),
            ssl_ca=Path(ca) if ca else None,
            application_name=query.get("application_name"),
            connect_timeout=_number("connect_timeout", timeout) if timeout else None,
        )

    @property
    def is_socket(self) -> bool:
        """Whether the way leads through a Unix socket, where TLS means nothing."""
        return self.host.startswith(("/", "@"))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        where = f"{host}" if self.is_socket else f"{host}:{self.port}"
        return f"{where}, database {self.database}, user {self.user}"


def _single_values(url: URL) -> dict[str, str]:
    values = {}
    for name, value in url.query.items():
        if name not in _PARAMETERS:
            nearest = get_close_matches(name, _PARAMETERS, n=1)
            known = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(_PARAMETERS)}"
            raise ConfigurationError(f"the database URL has an unknown parameter {name!r}; {known}")
        if not isinstance(value, str):
            raise ConfigurationError(f"the database URL says {name!r} more than once")
        values[name] = value
    return values


def _number(name: str, value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise ConfigurationError(f"{name} in the database URL must be a whole number from 1 up, got {value!r}")
    return int(value)
