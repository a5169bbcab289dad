"""The target of the environment: its URL or its profile, completed by the settings for TLS, timeouts and the tunnel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy.engine import URL

from src.config.constants import PROFILES
from src.database.errors import ConfigurationError
from src.database.target import SshGateway, Target, libpq_parameters

if TYPE_CHECKING:
    from src.config.settings import Settings

Purpose = Literal["application", "migrations", "reading", "administration", "backup"]

_URLS: Final[Mapping[Purpose, tuple[str, ...]]] = {
    "application": ("DATABASE_URL",),
    "migrations": ("DATABASE_MIGRATION_URL", "DATABASE_URL"),
    "reading": ("DATABASE_REPLICA_URL", "DATABASE_URL"),
    "administration": ("DATABASE_ADMIN_URL",),
    "backup": ("DATABASE_BACKUP_URL", "DATABASE_ADMIN_URL"),
}
"""The settings that name the target of a purpose; the first that is set is used."""
_ROLES: Final[Mapping[Purpose, str]] = {
    "administration": "a role that may create roles",
    "backup": "a role that reads the rows of every tenant",
}
"""The purposes for which the application's role must not be used, and the role that they need."""
_WITH_A_ROUTE: Final = (
    "`await get_connect_arguments(driver)` of src.database starts the embedded server and opens the tunnel"
)
_MAY_BE_PLAINTEXT: Final = ("disable", "allow", "prefer")


class DatabaseConfig(dict[str, Any]):
    """Connection parameters by name, with the password; the dictionary's text masks the password."""

    def __repr__(self) -> str:
        return repr({name: "***" if name == "password" and value else value for name, value in self.items()})

    __str__ = __repr__


@dataclass(frozen=True, slots=True)
class EnvironmentConfig:
    """The environment's database, for code with a driver of its own; `get_db` and `engine` do not need it."""

    settings: Settings

    @property
    def environment(self) -> str:
        """development, test, staging or production."""
        return self.settings.ENVIRONMENT

    @property
    def use_vm(self) -> bool:
        """True if the database runs in a virtual machine, behind port forwarding."""
        return self.environment == "development" and self.settings.DATABASE_URL is None and self.target is not None

    @property
    def target(self) -> Target | None:
        """The target; None for the embedded server."""
        target = named_target(self.settings)
        return None if target is None else complete(target, self.settings)

    def get_database_config(self) -> DatabaseConfig:
        """Return host, port, database, user, password and use_vm; with TLS also ssl_mode and ssl_ca.

        Behind an SSH tunnel, the host is the one that the gateway connects to.

        Raises:
            ConfigurationError: The target is the embedded server, which may not run.
        """
        target = self._target_for_others()
        config = DatabaseConfig(
            host=",".join(host.name for host in target.hosts),
            port=target.port if len(target.hosts) == 1 else ",".join(str(host.port) for host in target.hosts),
            database=target.database,
            user=target.user,
            password=target.password,
            use_vm=self.use_vm,
        )
        if target.ssl_mode != "disable":
            config["ssl_mode"] = target.ssl_mode
            if target.ssl_ca is not None:
                config["ssl_ca"] = str(target.ssl_ca)
        return config

    def get_connect_arguments(self) -> DatabaseConfig:
        """Return the keyword arguments of `psycopg.connect`, which are libpq's: ``dbname``, ``sslmode``, and so on.

        Raises:
            ConfigurationError: The target is the embedded server or behind an SSH tunnel: `get_connect_arguments` of
                `src.database` starts the server and opens the tunnel. A Cloud SQL instance works where its socket is
                mounted.
        """
        target = self._target_for_others()
        if target.ssh is not None:
            raise ConfigurationError(
                "DB_SSH_TUNNEL is set: this method opens no tunnel",
                hint=_WITH_A_ROUTE,
            )
        return DatabaseConfig(libpq_parameters(target))

    def _target_for_others(self) -> Target:
        target = self.target
        if target is None:
            raise ConfigurationError(
                "the embedded server may not run: this method does not start it",
                hint=f"{_WITH_A_ROUTE}; or set DATABASE_URL, or DB_VM_USER and the other DB_VM_* variables",
            )
        return target


def get_environment_config() -> EnvironmentConfig:
    """Return the connection profile of this process's environment.

    Raises:
        ConfigurationError: The settings are not valid; the message has all faults.
    """
    from src.config.settings import get_settings  # noqa: PLC0415 - pydantic is imported with the first settings

    return EnvironmentConfig(get_settings())


def named_target(settings: Settings, purpose: Purpose = "application") -> Target | None:
    """Return the target of the settings for a purpose; None for the embedded server.

    Raises:
        ConfigurationError: The settings have no target for this purpose.
    """
    name = next((name for name in _URLS[purpose] if getattr(settings, name) is not None), None)
    if purpose == "migrations" and settings.DATABASE_PGBOUNCER and name != "DATABASE_MIGRATION_URL":
        raise ConfigurationError(
            "DATABASE_MIGRATION_URL must be set if DATABASE_PGBOUNCER=true: a migration holds a lock of its"
            " session, and a transaction pooler does not keep sessions",
            hint="set DATABASE_MIGRATION_URL to a URL of the server itself, with the role that owns the tables",
        )
    application = named_target(settings) if purpose in _ROLES else None
    if name is not None:
        target = Target.from_url(getattr(settings, name), name=name)
        if purpose == "backup" and name == "DATABASE_ADMIN_URL" and application is not None:
            # An administrator's URL names any database of the server; the backup is of the application's.
            return replace(target, database=application.database)
        return target
    if purpose in _ROLES:
        if application is None:  # the embedded server, whose superuser serves
            return None
        raise ConfigurationError(
            f"{' or '.join(_URLS[purpose])} must be set to a URL like postgresql://user:password@host:5432/name, of"
            f" {_ROLES[purpose]}",
            hint="set the URL for this command only: no service needs it",
        )
    prefix = PROFILES.get(settings.ENVIRONMENT)
    return _profile_target(settings, prefix) if prefix and getattr(settings, f"{prefix}USER") else None


def complete(target: Target, settings: Settings) -> Target:
    """Return the target with the settings filled in where the URL has no value.

    Raises:
        ConfigurationError: The connection would be less secure than the environment requires.
    """
    profile_ca = settings.DB_PROD_SSL_CA if settings.ENVIRONMENT == "production" else None
    return replace(
        target,
        ssh=_gateway(target, settings),
        ssl_mode=_ssl_mode(target, settings),
        ssl_ca=target.ssl_ca or settings.DATABASE_SSL_CA or profile_ca,
        ssl_cert=target.ssl_cert or settings.DATABASE_SSL_CERT,
        ssl_key=target.ssl_key or settings.DATABASE_SSL_KEY,
        application_name=target.application_name or settings.DATABASE_APPLICATION_NAME,
        connect_timeout=target.connect_timeout or settings.DATABASE_CONNECT_TIMEOUT,
        statement_timeout=_first(target.statement_timeout, settings.DATABASE_STATEMENT_TIMEOUT),
        lock_timeout=_first(target.lock_timeout, settings.DATABASE_LOCK_TIMEOUT),
        search_path=_search_path(target, settings),
    )


def _profile_target(settings: Settings, prefix: str) -> Target:
    def field(name: str) -> Any:
        return getattr(settings, f"{prefix}{name}")

    password = field("PASSWORD")
    url = URL.create(
        "postgresql+asyncpg",
        username=field("USER"),
        password=password and password.get_secret_value(),
        database=field("NAME"),
        query={"host": field("HOST") or "localhost", "port": str(field("PORT"))},
    )
    return Target.from_url(url, name=f"{prefix}*")


def _ssl_mode(target: Target, settings: Settings) -> Any:
    configured = target.ssl_mode or settings.DATABASE_SSL_MODE
    mode = configured or ("disable" if settings.is_local else "require")
    is_safe_without = target.is_socket or target.embedded is not None
    files = (target.ssl_ca, target.ssl_cert, settings.DATABASE_SSL_CA, settings.DATABASE_SSL_CERT)
    if configured is None and settings.is_local and not is_safe_without and any(files):
        raise ConfigurationError(
            "DATABASE_SSL_MODE must be set if a CA or a certificate is set:"
            f" the default for ENVIRONMENT={settings.ENVIRONMENT} is no TLS",
            hint="DATABASE_SSL_MODE=verify-full",
        )
    if mode in _MAY_BE_PLAINTEXT and not settings.is_local and not is_safe_without:
        variable = "sslmode in the URL" if target.ssl_mode else "DATABASE_SSL_MODE"
        raise ConfigurationError(
            f"{variable} must be require, verify-ca or verify-full if ENVIRONMENT={settings.ENVIRONMENT},"
            f" got {mode!r}, which permits plaintext"
        )
    return mode


def _search_path(target: Target, settings: Settings) -> str | None:
    """Return the search path: DATABASE_SCHEMA alone, or a path of the URL that begins with DATABASE_SCHEMA.

    `public` is not added: the tables of another installation there would be found in place of missing ones.
    """
    schema, path = settings.DATABASE_SCHEMA, target.search_path
    if schema is None or path is None:
        return path or schema
    if path.partition(",")[0].strip('"') != schema:
        raise ConfigurationError(
            f"the search_path of the URL must begin with DATABASE_SCHEMA, {schema}, got {path!r}",
            hint="remove the search_path; or, if extensions are in another schema:"
            f" options=-csearch_path={schema},<that schema>",
        )
    return path


def _gateway(target: Target, settings: Settings) -> SshGateway | None:
    if not settings.DB_SSH_TUNNEL or target.embedded is not None:
        return None
    if target.cloud_sql_instance is not None:
        raise ConfigurationError(
            "DB_SSH_TUNNEL must be false if the host is a Cloud SQL instance: the Cloud SQL connector replaces the"
            " tunnel"
        )
    known_hosts = settings.DB_SSH_KNOWN_HOSTS
    trusts_any = known_hosts is not None and str(known_hosts) == "none"
    if trusts_any and not settings.is_local:
        raise ConfigurationError(
            f"DB_SSH_KNOWN_HOSTS must name a file if ENVIRONMENT={settings.ENVIRONMENT},"
            " got 'none', which trusts any host"
        )
    return SshGateway(
        host=settings.DB_SSH_HOST or "",
        port=settings.DB_SSH_PORT,
        user=settings.DB_SSH_USER,
        key=settings.DB_SSH_KEY,
        known_hosts="none" if trusts_any else known_hosts,
    )


def _first(value: int | None, other: int) -> int:
    """Return the first of two values that is set; 0 is a value, which disables a limit."""
    return other if value is None else value
