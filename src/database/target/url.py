"""Parse the text of a database URL, libpq's forms included, into SQLAlchemy's URL; check its hosts and parameters."""

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
_LARGEST_INTEGER: Final = 2_147_483_647  # of a server parameter
_SCHEMES: Final = ("postgres", "postgresql", "postgresql+asyncpg")
_AUTHORITY: Final = re.compile(r"^(?P<scheme>[\w+]+://)(?P<user>[^/?#]*@)?(?P<hosts>[^/?#@]*)(?P<rest>.*)$", re.DOTALL)
_CREDENTIALS: Final = re.compile(r"[\w+]+://(?:[^:/]*(?::[^@]*)?@)?")  # as SQLAlchemy finds them
_NOT_UTF8: Final = "its percent-encoded characters must be UTF-8 (%C3%B1, not %F1, for the letter n with a tilde)"
_PERCENT_ENCODE: Final = "percent-encode what is special in the password (@ is %40, / is %2F, : is %3A)"
_NAME: Final = re.compile(r"(?!.*\.\.)[A-Za-z0-9._-]{1,253}")


@dataclass(frozen=True, slots=True)
class Host:
    """One server's address: a name, an IP address, or the folder of a Unix socket."""

    name: str
    port: int = DEFAULT_PORT

    @property
    def is_socket(self) -> bool:
        """Whether the address is a Unix socket, where TLS means nothing."""
        return self.name.startswith("/")

    def __str__(self) -> str:
        if self.is_socket:
            return self.name if self.port == DEFAULT_PORT else f"{self.name} (port {self.port})"
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


class LibpqUrl(URL):
    """A URL whose text has `%20` for a blank, as libpq reads it; SQLAlchemy writes `+`, which libpq leaves as it is."""

    def render_as_string(self, hide_password: bool = True) -> str:
        """Return the URL's text; the password is masked unless `hide_password` is False."""
        base, mark, query = super().render_as_string(hide_password).partition("?")
        return f"{base}{mark}{query.replace('+', '%20')}"

    def __str__(self) -> str:
        return self.render_as_string()

    def __repr__(self) -> str:
        return self.render_as_string()


def parse_url(text: str | URL) -> URL:
    """Parse a URL; its scheme becomes asyncpg's, and a password is moved to where it is masked.

    libpq's forms are accepted as well as SQLAlchemy's: ``//a:5432,b:5433/name``, a percent-encoded socket folder as a
    host, and ``?host=``, ``?user=``, ``?password=``, ``?dbname=``. Hosts and parameters are not checked yet.

    Raises:
        ValueError: The text is no URL; the message never repeats a part of it that could be secret.
    """
    url = text if isinstance(text, URL) else _read(text.strip())
    if url.drivername not in _SCHEMES:
        raise ValueError(f"its scheme must be one of {', '.join(f'{scheme}://' for scheme in _SCHEMES)}")
    url = url.set(
        username=_last(url, "user") or url.username,
        password=_last(url, "password") or url.password,
        database=_last(url, "dbname") or url.database,
    ).difference_update_query(["user", "password", "dbname"])
    if not url.database:
        raise ValueError("it names no database")
    if "\0" in f"{url.username}{url.password}{url.database}":
        raise ValueError("it has a NUL in it")
    return LibpqUrl(*url.set(drivername="postgresql+asyncpg"))


def hosts_of(url: URL) -> tuple[Host, ...]:
    """Return the hosts in the order to try them; a URL without a host means localhost.

    Raises:
        ValueError: A host or a port is not valid; the message names it.
    """
    entries, ports = _entries(url, "host"), _entries(url, "port")
    if entries and url.host not in {None, "", "localhost"}:  # localhost often stands beside Cloud SQL's folder
        raise ValueError("its host is said twice: before the path and as ?host=")
    hosts = [_split(_trimmed(entry)) for entry in entries] or [(url.host or "localhost", url.port)]
    if len(ports) not in {0, 1, len(hosts)}:
        raise ValueError(f"port must be one, or one for each host: {len(ports)} ports for {len(hosts)} hosts")
    if ports and any(port for _, port in hosts):
        raise ValueError("its port is said twice: beside the host and as a port for all")
    if ports:
        shared = ports * len(hosts) if len(ports) == 1 else ports
        hosts = [(name, _port(port)) for (name, _), port in zip(hosts, shared, strict=True)]
    return tuple(_host(unquote(name), port) for name, port in hosts)


def _entries(url: URL, parameter: str) -> list[str]:
    """Return the values of a parameter that can be repeated, and that can contain several values each."""
    value = url.query.get(parameter)
    if value is None:
        return []
    return ",".join([value] if isinstance(value, str) else value).split(",")


def _trimmed(entry: str) -> str:
    """Remove blanks around a host; a folder's name may end in one."""
    return entry.lstrip() if "/" in entry else entry.strip()


def parameters_of(url: URL) -> tuple[dict[str, Any], list[str]]:
    """Return the parameters' values by name, and every fault: an unknown or repeated name, a value out of range.

    A parameter that platforms and other clients name differently has our name in the result: `connection_limit` is
    `pool_max`, `schema` is `search_path`, and each setting in `options` has its own name.
    """
    values: dict[str, Any] = {}
    faults = []
    for name, value in url.query.items():
        if name in {"host", "port"}:
            continue
        if name not in _PARAMETERS:
            faults.append(f"{'foreign' if name in _NOT_TAKEN else 'unknown'} parameter {name!r}; {_remedy(name)}")
        elif not isinstance(value, str):
            faults.append(f"{name!r} is said more than once")
        else:
            try:
                parsed = _PARAMETERS[name](value)
            except ValueError as error:
                faults.append(f"{name} must be {error}, got {value!r}")
                continue
            for ours, one in parsed.items() if isinstance(parsed, dict) else ((name, parsed),):
                if ours in values:
                    faults.append(f"{ours!r} is said more than once")
                values[ours] = one
    values.pop("channel_binding", None)
    return values, faults


def warnings_of(url: URL) -> list[str]:
    """Return a warning for each parameter that the driver does not support, with the remedy."""
    if url.query.get("channel_binding") != "require":
        return []
    return [
        "channel_binding=require has no effect: the driver does not support it; sslmode=verify-full proves the server"
    ]


def _last(url: URL, parameter: str) -> str | None:
    value = url.query.get(parameter)
    return value[-1] if isinstance(value, tuple) else value


def _read(text: str) -> URL:
    try:
        unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError(_NOT_UTF8) from None
    try:
        return sqlalchemy_url(_plus_as_itself(_several_hosts_as_parameters(text)))
    except (ArgumentError, ValueError):
        raise ValueError(_why_it_is_none(text)) from None


def _why_it_is_none(text: str) -> str:
    """Return the reason why a text is no URL; no part of the text is repeated, since any could be secret."""
    found = _AUTHORITY.match(text)
    if text.startswith(("'", '"')):
        return "it is in quotes: take them away"
    if text.startswith("jdbc:"):
        return "take jdbc: away, and put the user and the password before the host"
    if found is None:
        return "it is empty" if not text else "it cannot be read as one: it has no scheme"
    if "[" not in found["hosts"] and found["hosts"].count(":") > 1:
        return "an IPv6 address stands in brackets: [::1]"
    if ":" in found["hosts"]:
        return f"its port must be from 1 to 65535; {_PERCENT_ENCODE}"
    return "it cannot be read as one"


def _several_hosts_as_parameters(text: str) -> str:
    """Rewrite ``//a:1,b:2/name`` and an encoded socket folder as ``///name?host=…``, which SQLAlchemy parses."""
    found = _AUTHORITY.match(text)
    if found is None or not ("," in found["hosts"] or found["hosts"].lower().startswith("%2f")):
        return text
    path, _, query = found["rest"].partition("?")
    hosts = "&".join(f"host={quote(unquote(host), safe='')}" for host in found["hosts"].split(","))
    return f"{found['scheme']}{found['user'] or ''}{path or '/'}?{'&'.join(filter(None, [query, hosts]))}"


def _plus_as_itself(text: str) -> str:
    """Encode each `+` of the parameters: SQLAlchemy reads it as a blank, and libpq as itself."""
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
            raise ValueError("a socket's folder has a NUL in it")
    elif ":" in name:
        try:
            IPv6Address(name)
        except ValueError:
            raise ValueError(f"host must be a name, an address or a folder: {name[:60]!r} is no IPv6 address") from None
    elif not _NAME.fullmatch(name):
        raise ValueError(f"its host cannot be one; {_PERCENT_ENCODE}")
    if port is not None and not 1 <= port <= _LAST_PORT:
        raise ValueError("its port must be from 1 to 65535")
    return Host(name, DEFAULT_PORT if port is None else port)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > len(str(_LAST_PORT)):
        raise ValueError("its port must be from 1 to 65535")
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
    """Parse Prisma's parameter: the name of the one schema to search, without quotes."""
    if not text.isprintable() or re.search(r"""["'\\\s,]""", text):
        raise ValueError("the name of one schema")
    return {"search_path": text if re.fullmatch(r"[a-z_][a-z0-9_$]*", text) else f'"{text}"'}


def _options(text: str) -> dict[str, Any]:
    """Parse the command line that libpq sends for the server's process: `-c name=value`, `--name=value`."""
    found: dict[str, Any] = {}
    words = re.sub(r"(?:^|(?<=\s))-c\s+", "-c", text.strip()).split()
    for word in words:
        name, is_set, value = word.removeprefix("-c").removeprefix("--").partition("=")
        if not (word.startswith(("-c", "--")) and is_set):
            if word.startswith(("endpoint=", "project=")):
                raise ValueError("left out on Neon: the driver names the host in the TLS handshake (SNI)")
            raise ValueError("like -csearch_path=app")
        name = name.replace("-", "_")
        if name not in _OF_OPTIONS:
            raise ValueError(f"of {', '.join(_OF_OPTIONS)} alone; ALTER ROLE … SET serves for others")
        try:
            found[name] = _OF_OPTIONS[name](value)
        except ValueError as error:
            raise ValueError(f"right, and {name} in it {error}") from None
    return found


_MILLISECONDS: Final = _whole(0, _LARGEST_INTEGER, " (milliseconds)")
_SCHEMA: Final = re.compile(r'"[^"\'\\\s,]{1,63}"|[A-Za-z_][\w$]{0,62}|\$user')
_OF_OPTIONS: Final[Mapping[str, Callable[[str], Any]]] = {
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
_SAID_ELSEWHERE: Final = {
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
"""Other drivers' names of our parameters."""
_NOT_TAKEN: Final = {
    "gssencmode": "the driver has no GSS encryption; leave it out and use sslmode",
    "hostaddr": "name the address as the host",
    "keepalives": "connections are kept alive always; leave it out",
    "passfile": "settings alone decide; put the password into the URL",
    "pgbouncer": "leave it out, and if it is true set DATABASE_PGBOUNCER=true",
    "pool_timeout": "leave it out, and set DATABASE_POOL_TIMEOUT (seconds)",
    "prepared_statement_cache_size": "set DATABASE_PGBOUNCER=true where there is PgBouncer, and else leave it out",
    "service": "settings alone decide; name host, user and database",
    "sslcrl": "the driver looks at no revocation list; leave it out",
    "sslidentity": "leave it out, and name the client's certificate and key as PEM files: sslcert and sslkey",
    "sslnegotiation": "the driver negotiates; leave it out",
    "sslpassword": "the driver reads keys without a password;"  # pragma: allowlist secret
    " leave it out, and store the key of sslkey without one",
    "statement_cache_size": "set DATABASE_PGBOUNCER=true where there is PgBouncer, and else leave it out",
    "supa": "leave it out: it tells Vercel's clients which pooler the URL leads to",
}
"""Parameters of libpq and other drivers that are not supported, with the remedy."""


def _remedy(name: str) -> str:
    if instead := _NOT_TAKEN.get(name):
        return instead
    if elsewhere := _SAID_ELSEWHERE.get(name):
        return f"did you mean {elsewhere}?"
    nearest = get_close_matches(name.lower(), _KNOWN, n=1)
    return f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(sorted(_KNOWN))}"
