"""Parse the text of a database URL, libpq's forms included, into SQLAlchemy's URL; check the hosts and parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, Final, Literal, get_args
from urllib.parse import quote, unquote

from sqlalchemy.engine import URL
from sqlalchemy.engine import make_url as sqlalchemy_url
from sqlalchemy.exc import ArgumentError

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
SessionAttributes = Literal["any", "read-write", "read-only", "primary", "standby", "prefer-standby"]

DEFAULT_PORT: Final = 5432
_LAST_PORT: Final = 65535
_LARGEST_INTEGER: Final = 2_147_483_647  # the limit of an integer parameter of the server
_SCHEMES: Final = ("postgres", "postgresql", "postgresql+asyncpg")
_AUTHORITY: Final = re.compile(r"^(?P<scheme>[\w+]+://)(?P<user>[^/?#]*@)?(?P<hosts>[^/?#@]*)(?P<rest>.*)$", re.DOTALL)
_CREDENTIALS: Final = re.compile(r"[\w+]+://(?:[^:/]*(?::[^@]*)?@)?")  # as in the pattern of SQLAlchemy's make_url
_NOT_UTF8: Final = "percent-encoded characters must be UTF-8 (%C3%B1, not %F1, for the letter n with a tilde)"
_PERCENT_ENCODE: Final = "percent-encode special characters in the password (@ is %40, / is %2F, : is %3A)"
_PORT_RULE: Final = f"the port must be from 1 to {_LAST_PORT}"
_NAME: Final = re.compile(r"(?!.*\.\.)[A-Za-z0-9._-]{1,253}")


@dataclass(frozen=True, slots=True)
class Host:
    """One server's address: a name, an IP address, or the folder of a Unix socket."""

    name: str
    port: int = DEFAULT_PORT

    @property
    def is_socket(self) -> bool:
        """True if the address is the folder of a Unix socket, which is never encrypted."""
        return self.name.startswith("/")

    @property
    def socket_path(self) -> str:
        """The file of the Unix socket."""
        return f"{self.name}/.s.PGSQL.{self.port}"

    def __str__(self) -> str:
        if self.is_socket:
            return self.name if self.port == DEFAULT_PORT else f"{self.name} (port {self.port})"
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


class LibpqUrl(URL):
    """A URL whose text has `%20` for a space. SQLAlchemy writes `+`, which libpq takes for a plus sign."""

    def render_as_string(self, hide_password: bool = True) -> str:
        """Return the URL's text; the password is masked unless `hide_password` is False."""
        base, mark, query = super().render_as_string(hide_password).partition("?")
        return f"{base}{mark}{query.replace('+', '%20')}"

    def __str__(self) -> str:
        return self.render_as_string()

    def __repr__(self) -> str:
        return self.render_as_string()


def parse_url(text: str | URL) -> URL:
    """Parse a database URL, and set its scheme to ``postgresql+asyncpg``.

    libpq's forms are accepted as well as SQLAlchemy's: ``//a:5432,b:5433/name``, a percent-encoded socket folder as a
    host, and ``?host=``, ``?user=``, ``?password=``, ``?dbname=``. A password among the parameters, whose text
    SQLAlchemy does not mask, becomes the URL's password, which it masks. Hosts and parameters are not checked yet.

    Raises:
        ValueError: The text is not a database URL; the message contains no part of it that could be secret.
    """
    url = text if isinstance(text, URL) else _read(text.strip())
    if url.drivername not in _SCHEMES:
        raise ValueError(f"the scheme must be one of {', '.join(f'{scheme}://' for scheme in _SCHEMES)}")
    url = url.set(
        username=_last(url, "user") or url.username,
        password=_last(url, "password") or url.password,
        database=_last(url, "dbname") or url.database,
    ).difference_update_query(["user", "password", "dbname"])
    if not url.database:
        raise ValueError("the URL must name a database")
    if "\0" in f"{url.username}{url.password}{url.database}":
        raise ValueError("the user, password and database must not contain a NUL character")
    return LibpqUrl(*url.set(drivername="postgresql+asyncpg"))


def hosts_of(url: URL) -> tuple[Host, ...]:
    """Return the hosts in the order to try them; without a host in the URL, localhost.

    Raises:
        ValueError: A host or a port is not valid; the message names the fault.
    """
    entries, ports = _entries(url, "host"), _entries(url, "port")
    # Google's documentation combines @localhost with ?host=/cloudsql/...
    if entries and url.host not in {None, "", "localhost"}:
        raise ValueError("the host is given twice: before the path and as ?host=")
    # Spaces around a name are removed; the name of a folder may end with a space.
    entries = [entry.lstrip() if "/" in entry else entry.strip() for entry in entries]
    hosts = [_split(entry) for entry in entries] or [(url.host or "localhost", url.port)]
    if len(ports) not in {0, 1, len(hosts)}:
        raise ValueError(f"port must have one value, or one for each host: {len(ports)} ports for {len(hosts)} hosts")
    if ports and any(port for _, port in hosts):
        raise ValueError("the port is given twice: after the host and as ?port=")
    if ports:
        shared = ports * len(hosts) if len(ports) == 1 else ports
        hosts = [(name, _port(port)) for (name, _), port in zip(hosts, shared, strict=True)]
    return tuple(_host(unquote(name), port) for name, port in hosts)


def _entries(url: URL, parameter: str) -> list[str]:
    """Return the values of a parameter that may be repeated, and whose text may contain several values."""
    value = url.query.get(parameter)
    if value is None:
        return []
    return ",".join([value] if isinstance(value, str) else value).split(",")


def parameters_of(url: URL) -> tuple[dict[str, Any], list[str]]:
    """Return the parameters' values by name, and every fault: an unknown or repeated name, a value out of range.

    Prisma's names are accepted for our parameters: `connection_limit` sets `pool_max`, `schema` sets `search_path`.
    Each setting in `options` is a value of its own.
    """
    values: dict[str, Any] = {}
    faults = []
    for name, value in url.query.items():
        if name in {"host", "port"}:
            continue
        if name not in _PARAMETERS:
            faults.append(f"{'unsupported' if name in _UNSUPPORTED else 'unknown'} parameter {name!r}; {_remedy(name)}")
        elif not isinstance(value, str):
            faults.append(f"{name!r} is given more than once")
        else:
            try:
                parsed = _PARAMETERS[name](value)
            except ValueError as error:
                faults.append(f"{name} must be {error}, got {value!r}")
                continue
            for ours, each in parsed.items() if isinstance(parsed, dict) else ((name, parsed),):
                if ours in values:
                    faults.append(f"{ours!r} is given more than once")
                values[ours] = each
    values.pop("channel_binding", None)
    return values, faults


def warnings_of(url: URL) -> list[str]:
    """Return a warning for each parameter that the driver does not support, with the remedy."""
    if url.query.get("channel_binding") != "require":
        return []
    return ["channel_binding=require has no effect in asyncpg; sslmode=verify-full authenticates the server"]


def _last(url: URL, parameter: str) -> str | None:
    value = url.query.get(parameter)
    return value[-1] if isinstance(value, tuple) else value


def _read(text: str) -> URL:
    try:
        unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError(_NOT_UTF8) from None
    try:
        return sqlalchemy_url(_keep_plus_signs(_several_hosts_as_parameters(text)))
    except (ArgumentError, ValueError):
        raise ValueError(_reason_of_no_url(text)) from None


def _reason_of_no_url(text: str) -> str:
    """Return why a text is not a URL, without any part of the text, which could be secret."""
    match = _AUTHORITY.match(text)
    if text.startswith(("'", '"')):
        return "the URL is in quotes: remove them"
    if text.startswith("jdbc:"):
        return "remove jdbc:, and put the user and the password before the host"
    if match is None:
        return "the text has no scheme" if text else "the text is empty"
    if "[" not in match["hosts"] and match["hosts"].count(":") > 1:
        return "an IPv6 address must be in brackets: [::1]"
    if ":" in match["hosts"]:
        return f"{_PORT_RULE}; {_PERCENT_ENCODE}"
    return "the text is not a URL"


def _several_hosts_as_parameters(text: str) -> str:
    """Rewrite ``//a:1,b:2/name`` and an encoded socket folder as ``///name?host=…``, which SQLAlchemy parses."""
    match = _AUTHORITY.match(text)
    if match is None or not ("," in match["hosts"] or match["hosts"].lower().startswith("%2f")):
        return text
    path, _, query = match["rest"].partition("?")
    hosts = "&".join(f"host={quote(unquote(host), safe='')}" for host in match["hosts"].split(","))
    return f"{match['scheme']}{match['user'] or ''}{path or '/'}?{'&'.join(filter(None, [query, hosts]))}"


def _keep_plus_signs(text: str) -> str:
    """Percent-encode each `+` of the parameters: SQLAlchemy reads it as a space, libpq as a plus sign."""
    before = _CREDENTIALS.match(text)
    start = -1 if before is None else text.find("?", before.end())
    return text if start < 0 else text[:start] + text[start:].replace("+", "%2B")


def _split(entry: str) -> tuple[str, int | None]:
    """Parse ``name``, ``name:port``, ``[v6]``, ``[v6]:port``, a bare IPv6 address, or a folder, which has no port."""
    if entry.startswith("/") or not entry:
        return entry, None
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        return name, _port(rest.removeprefix(":")) if rest else None
    if entry.count(":") == 1:
        name, _, port = entry.partition(":")
        return name, _port(port) if port else None
    return entry, None


def _host(name: str, port: int | None) -> Host:
    if name.startswith("/"):
        if "\0" in name:
            raise ValueError("the folder of a socket must not contain a NUL character")
    elif ":" in name:
        try:
            IPv6Address(name)
        except ValueError:
            raise ValueError(f"a host with colons must be an IPv6 address, got {name[:60]!r}") from None
    elif not _NAME.fullmatch(name):
        raise ValueError(f"the host has characters that no host name has; {_PERCENT_ENCODE}")
    if port is not None and not 1 <= port <= _LAST_PORT:
        raise ValueError(_PORT_RULE)
    return Host(name, DEFAULT_PORT if port is None else port)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > len(str(_LAST_PORT)):
        raise ValueError(_PORT_RULE)
    return int(text)


def _whole(least: int, most: int, unit: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or not least <= int(text[:20]) <= most:
            raise ValueError(f"a whole number from {least} to {most}{unit}")
        return int(text)

    return parse


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return text

    return parse


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError("the path of a PEM file")
    return Path(text)


def _label(text: str) -> str:
    if not (1 <= len(text) <= 63 and text.isprintable()):  # noqa: PLR2004 - PostgreSQL cuts a name there
        raise ValueError("1 to 63 printable characters")
    return text


def _search_path(text: str) -> str:
    schemas = [schema.strip() for schema in text.split(",")]
    if not all(map(_SCHEMA.fullmatch, schemas)):
        raise ValueError("names of schemas, separated by commas")
    return ",".join(schemas)


def _schema(text: str) -> dict[str, str]:
    """Parse Prisma's parameter: the name of the one schema to search, written without quotes."""
    if not text.isprintable() or re.search(r"""["'\\\s,]""", text):
        raise ValueError("the name of one schema")
    return {"search_path": text if re.fullmatch(r"[a-z_][a-z0-9_$]*", text) else f'"{text}"'}


def _options(text: str) -> dict[str, Any]:
    """Parse libpq's command-line options for the server: `-c name=value`, `--name=value`."""
    settings: dict[str, Any] = {}
    words = re.sub(r"(?:^|(?<=\s))-c\s+", "-c", text.strip()).split()
    for word in words:
        name, is_set, value = word.removeprefix("-c").removeprefix("--").partition("=")
        if not (word.startswith(("-c", "--")) and is_set):
            if word.startswith(("endpoint=", "project=")):
                raise ValueError("left out on Neon: asyncpg sends the host's name in the TLS handshake (SNI)")
            raise ValueError("of the form -csearch_path=app")
        name = name.replace("-", "_")
        if name not in _SETTINGS_IN_OPTIONS:
            names = ", ".join(_SETTINGS_IN_OPTIONS)
            raise ValueError(f"limited to {names}; set others with ALTER ROLE … SET")
        try:
            settings[name] = _SETTINGS_IN_OPTIONS[name](value)
        except ValueError as error:
            raise ValueError(f"valid: {name} must be {error}") from None
    return settings


_MILLISECONDS: Final = _whole(0, _LARGEST_INTEGER, " (milliseconds)")
_SCHEMA: Final = re.compile(r'"[^"\'\\\s,]{1,63}"|[A-Za-z_][\w$]{0,62}|\$user')
_SETTINGS_IN_OPTIONS: Final[Mapping[str, Callable[[str], Any]]] = {
    "lock_timeout": _MILLISECONDS,
    "search_path": _search_path,
    "statement_timeout": _MILLISECONDS,
}

_PARAMETERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "application_name": _label,
    "channel_binding": _one_of(("disable", "prefer", "require")),
    "connection_limit": lambda text: {"pool_max": _whole(1, 1000, "")(text)},
    "connect_timeout": _whole(1, 600, " (seconds)"),
    "lock_timeout": _MILLISECONDS,
    "max_lifetime": _whole(1, _LARGEST_INTEGER, " (seconds)"),
    "options": _options,
    "pool_idle": _whole(1, _LARGEST_INTEGER, " (milliseconds)"),
    "pool_max": _whole(1, 1000, ""),
    "pool_min": _whole(0, 1000, ""),
    "schema": _schema,
    "sslcert": _path,
    "sslkey": _path,
    "sslmode": _one_of(get_args(SslMode)),
    "sslrootcert": _path,
    "statement_timeout": _MILLISECONDS,
    "target_session_attrs": _one_of(get_args(SessionAttributes)),
}
_KNOWN: Final = (*_PARAMETERS, "dbname", "host", "password", "port", "user")
_OTHER_NAMES: Final = {
    "currentSchema": "schema",
    "command_timeout": "statement_timeout",
    "idle_timeout": "pool_idle",
    "max": "pool_max",
    "max_overflow": "pool_max",
    "pool_recycle": "max_lifetime",
    "pool_size": "pool_max",
    "server_settings": "options",
    "socket_timeout": "statement_timeout",
    "ssl": "sslmode",
    "sslaccept": "sslmode",
    "timeout": "connect_timeout",
}
"""The names that other drivers and platforms have for our parameters."""
_UNSUPPORTED: Final = {
    "gssencmode": "asyncpg has no GSS encryption; remove the parameter, and use sslmode",
    "hostaddr": "use the address as the host",
    "keepalives": "TCP keepalives are always on; remove the parameter",
    "passfile": "password files are not read; put the password into the URL",
    "pgbouncer": "remove it, and if it is true set DATABASE_PGBOUNCER=true",
    "pool_timeout": "remove it, and set DATABASE_POOL_TIMEOUT (seconds)",
    "prepared_statement_cache_size": "remove it; behind PgBouncer, set DATABASE_PGBOUNCER=true",
    "service": "service files are not read; name the host, the user and the database in the URL",
    "sslcrl": "revocation lists are not read; remove the parameter",
    "sslidentity": "remove it, and name the client's certificate and key as PEM files: sslcert and sslkey",
    "sslnegotiation": "direct TLS negotiation is not supported; remove the parameter",
    "sslpassword": "encrypted keys are not read;"  # pragma: allowlist secret
    " remove the parameter, and store the key of sslkey without a passphrase",
    "statement_cache_size": "remove it; behind PgBouncer, set DATABASE_PGBOUNCER=true",
    "supa": "remove it: only Vercel's own clients read it",
}
"""Parameters of libpq, other drivers and platforms that are not supported, with the remedy."""


def _remedy(name: str) -> str:
    if instead := _UNSUPPORTED.get(name):
        return instead
    if ours := _OTHER_NAMES.get(name):
        return f"did you mean {ours}?"
    nearest = get_close_matches(name.lower(), _KNOWN, n=1)
    return f"did you mean {nearest[0]}?" if nearest else f"the parameters are {', '.join(sorted(_KNOWN))}"
