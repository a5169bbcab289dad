"""Target: where the database is and how it is reached, parsed once; the password is not part of its text."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, Self

from sqlalchemy.engine import URL

from src.database.errors import ConfigurationError
from src.database.target.url import Host, LibpqUrl, SessionAttributes, SslMode, hosts_of, parameters_of

Route = Literal["direct", "Unix socket", "SSH tunnel", "Cloud SQL", "embedded"]

CLOUD_SQL_FOLDER: Final = "/cloudsql/"
DEFAULT_CONNECT_SECONDS: Final = 10.0

_FIELD_OF: Final = {"sslcert": "ssl_cert", "sslkey": "ssl_key", "sslmode": "ssl_mode", "sslrootcert": "ssl_ca"}
"""Maps a URL parameter to its field, if their names differ."""
_PARAMETER_OF: Final = {attribute: parameter for parameter, attribute in _FIELD_OF.items()}
_NOT_PARAMETERS: Final = {"hosts", "database", "user", "password", "ssh", "embedded", "search_path"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SshGateway:
    """The machine that an SSH tunnel goes through, and how both sides authenticate."""

    host: str
    port: int = 22
    user: str | None = None
    """None: the user of this process, as in OpenSSH."""
    key: Path | None = None
    """The file of a private key; None: the keys of the SSH agent, and the usual files in ~/.ssh."""
    known_hosts: Path | Literal["none"] | None = None
    """None: ~/.ssh/known_hosts; ``none``: every host is trusted."""

    def __str__(self) -> str:
        return f"{f'{self.user}@' if self.user else ''}{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """The limits of a pool: the number of its connections, and the time for which it keeps each of them.

    Attributes:
        size: How many connections the pool keeps open.
        overflow: How many more it opens under load, and closes afterwards.
        timeout: Seconds that a caller waits for a connection.
        lifetime: Seconds after which a connection is replaced.
        idle: Seconds after which an idle connection is replaced; None sets no limit besides `lifetime`.
        minimum: How many connections are opened together with the first.
    """

    size: int
    overflow: int
    timeout: float
    lifetime: float
    idle: float | None = None
    minimum: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One database as one user. A field that is None was not set by the URL."""

    hosts: tuple[Host, ...]
    """At least one host; they are tried in this order."""
    database: str
    user: str
    password: str | None = field(default=None, repr=False)
    ssl_mode: SslMode | None = None
    ssl_ca: Path | None = None
    ssl_cert: Path | None = None
    ssl_key: Path | None = None
    ssh: SshGateway | None = None
    embedded: Path | None = None
    """The folder of the embedded server, if that is the target."""
    target_session_attrs: SessionAttributes | None = None
    application_name: str | None = None
    connect_timeout: float | None = None
    """Seconds for one host."""
    statement_timeout: int | None = None
    """Milliseconds; 0 means no limit."""
    lock_timeout: int | None = None
    """Milliseconds; 0 means no limit."""
    search_path: str | None = None
    """The schemas to search, separated by commas; None: the path that the server, the database or the role sets."""
    pool_min: int | None = None
    pool_max: int | None = None
    pool_idle: int | None = None
    """Milliseconds."""
    max_lifetime: int | None = None
    """Seconds."""

    @classmethod
    def from_url(cls, url: URL, *, name: str = "the database URL") -> Self:
        """Create a target from a URL; what the URL does not set stays None.

        Args:
            url: The result of `parse_url`.
            name: The URL's name in errors, such as ``DATABASE_URL``.

        Raises:
            ConfigurationError: The hosts or parameters are not valid; the message has all faults and nothing secret.
        """
        values, hosts, faults = _read(url)
        if faults:
            raise ConfigurationError("\n".join(f"{name}: {fault}" for fault in faults))
        return cls(
            hosts=hosts,
            database=url.database or "",
            user=url.username or "",
            password=str(url.password) if url.password is not None else None,
            **{_FIELD_OF.get(parameter, parameter): value for parameter, value in values.items()},
        )

    @staticmethod
    def faults_of_url(url: URL) -> list[str]:
        """Return all faults of the URL's hosts and parameters, without anything secret."""
        return _read(url)[2]

    @property
    def url(self) -> URL:
        """The target as a URL, whose text masks the password. It does not include the SSH gateway."""
        query = {
            _PARAMETER_OF.get(each.name, each.name): str(value)
            for each in fields(self)
            if each.name not in _NOT_PARAMETERS and (value := getattr(self, each.name)) is not None
        }
        if self.search_path is not None:
            query["options"] = f"-csearch_path={self.search_path}"
        one = self.hosts[0] if len(self.hosts) == 1 and not self.hosts[0].is_socket else None
        if one is None:
            query["host"] = ",".join(host.name for host in self.hosts)
            query["port"] = ",".join(str(host.port) for host in self.hosts)
        return LibpqUrl.create(
            "postgresql+asyncpg",
            username=self.user,
            password=self.password,
            host=one.name if one else None,
            port=one.port if one else None,
            database=self.database,
            query=query,
        )

    @property
    def host(self) -> str:
        """The first host's name."""
        return self.hosts[0].name

    @property
    def port(self) -> int:
        """The first host's port."""
        return self.hosts[0].port

    @property
    def connect_seconds(self) -> float:
        """Seconds for the login at one host, by default 10."""
        return self.connect_timeout or DEFAULT_CONNECT_SECONDS

    @property
    def route(self) -> Route:
        """The route to the database."""
        if self.embedded is not None:
            return "embedded"
        if self.ssh is not None:
            return "SSH tunnel"
        if self.cloud_sql_instance is not None:
            return "Cloud SQL"
        return "Unix socket" if self.is_socket else "direct"

    @property
    def has_pool_parameters(self) -> bool:
        """True if the URL sets a limit of the pool."""
        return any(value is not None for value in (self.pool_min, self.pool_max, self.pool_idle, self.max_lifetime))

    @property
    def is_socket(self) -> bool:
        """True if every host is a Unix socket, which is never encrypted."""
        return all(host.is_socket for host in self.hosts)

    @property
    def cloud_sql_instance(self) -> str | None:
        """``project:region:instance`` if the host is the folder of a Cloud SQL instance, or None."""
        if not self.host.startswith(CLOUD_SQL_FOLDER):
            return None
        return self.host.removeprefix(CLOUD_SQL_FOLDER).partition("/")[0]

    def __str__(self) -> str:
        where = ", ".join(map(str, self.hosts))
        through = f" through {self.ssh}" if self.ssh else ""
        return f"{where}{through}, database {self.database}, user {self.user}"


def _read(url: URL) -> tuple[dict[str, Any], tuple[Host, ...], list[str]]:
    """Return the values of the parameters, the hosts, and the faults of both."""
    values, faults = parameters_of(url)
    hosts: tuple[Host, ...] = ()
    try:
        hosts = hosts_of(url)
    except ValueError as error:
        faults.append(str(error))
    if not url.username:
        faults.append("the URL must name a user: postgresql://user:password@host/name")
    return values, hosts, [*faults, *_contradictions(values, hosts)]


def _contradictions(values: dict[str, Any], hosts: tuple[Host, ...]) -> list[str]:
    """Return a fault for each combination of values that cannot work."""
    faults = []
    if values.get("pool_min", 0) > values.get("pool_max", float("inf")):
        faults.append(f"pool_min must not be above pool_max, got {values['pool_min']} and {values['pool_max']}")
    if ("sslcert" in values) != ("sslkey" in values):
        faults.append("sslcert and sslkey must be set together")
    faults.extend(
        "host must be /cloudsql/<project>:<region>:<instance>, and the only host"
        for host in hosts
        if host.name.startswith(CLOUD_SQL_FOLDER) and (len(hosts) > 1 or not _names_an_instance(host.name))
    )
    return faults


def _names_an_instance(folder: str) -> bool:
    """Return True for ``project:region:instance``; the project ``example.com:name`` of a domain has one part more."""
    parts = folder.removeprefix(CLOUD_SQL_FOLDER).partition("/")[0].split(":")
    return len(parts) in {3, 4} and all(parts)
