"""The target of the environment: its URL or its profile, completed by the settings for TLS, timeouts and the tunnel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy.engine import URL

from src.config.constants import PROFILES
from src.database.errors import ConfigurationError
from src.database.target import SshGateway, Target

if TYPE_CHECKING:
    from src.config.settings import Settings

Purpose = Literal["application", "migrations", "reading", "administration", "backup"]

_MAY_BE_PLAINTEXT: Final = ("disable", "allow", "prefer")


class DatabaseConfig(dict[str, Any]):
    """A mapping for a driver with the password, which its text masks."""

    def __repr__(self) -> str:
        return repr({name: "***" if name == "password" and value else value for name, value in self.items()})

    __str__ = __repr__


@dataclass(frozen=True, slots=True)
class EnvironmentConfig:
    """The environment's database, for code that connects by itself; `get_db` and `engine` do not need it."""

    settings: Settings

    @property
    def environment(self) -> str:
        """development, test, staging or production."""
        return self.settings.ENVIRONMENT

    @property
    def use_vm(self) -> bool:
        """Whether the database is in a virtual machine, behind port forwarding."""
        return self.environment == "development" and self.settings.DATABASE_URL is None and self.target is not None

    @property
    def target(self) -> Target | None:
        """The target; None for the embedded server, which only `get_db` and `engine` start."""
        found = named_target(self.settings)
        return None if found is None else complete(found, self.settings)

    def get_database_config(self) -> DatabaseConfig:
        """Return host, port, database, user, password and use_vm; ssl_mode and ssl_ca where TLS is used.

        Behind an SSH tunnel the host is that which the gateway connects to.

        Raises:
            ConfigurationError: The target is the embedded server: only `get_db` and `engine` reach it.
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
            ConfigurationError: The target is the embedded server, or behind an SSH tunnel: only `get_db` and `engine`
                open those. Cloud SQL's folder serves where it is mounted.
        """
        target = self._target_for_others()
        if target.ssh is not None:
            raise ConfigurationError(
                "DB_SSH_TUNNEL is set: the tunnel is opened by `get_db` and `engine`, and by no other driver"
            )
        config = self.get_database_config()
        parameters = {
            "host": config["host"],
            "port": config["port"],
            "dbname": target.database,
            "user": target.user,
            "password": target.password,
            "sslmode": target.ssl_mode,
            "sslrootcert": target.ssl_ca and str(target.ssl_ca),
            "sslcert": target.ssl_cert and str(target.ssl_cert),
            "sslkey": target.ssl_key and str(target.ssl_key),
            "application_name": target.application_name,
            "connect_timeout": max(1, round(target.connect_timeout or 0)),
            "target_session_attrs": target.target_session_attrs,
            "options": target.search_path and f"-csearch_path={target.search_path}",
        }
        return DatabaseConfig({name: value for name, value in parameters.items() if value is not None})

    def _target_for_others(self) -> Target:
        target = self.target
        if target is None:
            raise ConfigurationError(
                "the embedded server is reached through `get_db` and `engine` alone: they start it",
                hint="set DATABASE_URL, or DB_VM_USER and the other DB_VM_* variables",
            )
        return target


def get_environment_config() -> EnvironmentConfig:
    """Return the connection profile of this process's environment.

    Raises:
        ConfigurationError: With all the faults of the settings at once.
    """
    from src.config.settings import get_settings  # noqa: PLC0415 - pydantic is imported with the first settings

    return EnvironmentConfig(get_settings())


def named_target(settings: Settings, purpose: Purpose = "application") -> Target | None:
    """Return the target of the settings for a purpose; None for the embedded server.

    Raises:
        ConfigurationError: The settings have no target for this purpose.
    """
    if purpose == "reading" and settings.DATABASE_REPLICA_URL is not None:
        return Target.from_url(settings.DATABASE_REPLICA_URL, name="DATABASE_REPLICA_URL")
    if purpose == "migrations":
        if settings.DATABASE_MIGRATION_URL is not None:
            return Target.from_url(settings.DATABASE_MIGRATION_URL, name="DATABASE_MIGRATION_URL")
        if settings.DATABASE_PGBOUNCER:
            raise ConfigurationError(
                "DATABASE_MIGRATION_URL must be set where DATABASE_PGBOUNCER=true: migrations hold a lock for a"
                " session, which a transaction pooler cannot keep",
                hint="name the server itself there, as the owner of the tables",
            )
    if purpose in {"administration", "backup"}:
        return _administrators_target(settings, purpose)
    if settings.DATABASE_URL is not None:
        return Target.from_url(settings.DATABASE_URL, name="DATABASE_URL")
    prefix = PROFILES.get(settings.ENVIRONMENT)
    return _profile_target(settings, prefix) if prefix and getattr(settings, f"{prefix}USER") else None


def _administrators_target(settings: Settings, purpose: Purpose) -> Target | None:
    """Return the target of the role that creates roles, or that backs up; None for the embedded server's superuser."""
    if purpose == "backup" and settings.DATABASE_BACKUP_URL is not None:
        return Target.from_url(settings.DATABASE_BACKUP_URL, name="DATABASE_BACKUP_URL")
    application = named_target(settings)
    if settings.DATABASE_ADMIN_URL is not None:
        target = Target.from_url(settings.DATABASE_ADMIN_URL, name="DATABASE_ADMIN_URL")
        # An administrator's URL names whatever database there is; what is backed up is the application's.
        return replace(target, database=application.database) if purpose == "backup" and application else target
    if application is None:
        return None
    names = "DATABASE_BACKUP_URL or DATABASE_ADMIN_URL" if purpose == "backup" else "DATABASE_ADMIN_URL"
    what = "a role that reads every tenant's rows" if purpose == "backup" else "a role that may make roles"
    raise ConfigurationError(
        f"{names} must be set: {what}, to a URL like postgresql://user:password@host:5432/name",
        hint="set it for this command alone: no service needs it",
    )


def complete(target: Target, settings: Settings) -> Target:
    """Return the target with the settings filled in where the target itself has no value.

    Raises:
        ConfigurationError: The connection would be less secure than the environment requires.
    """
    return replace(
        target,
        ssh=_gateway(target, settings),
        ssl_mode=_ssl_mode(target, settings),
        ssl_ca=target.ssl_ca or settings.DATABASE_SSL_CA or _profile_ca(settings),
        ssl_cert=target.ssl_cert or settings.DATABASE_SSL_CERT,
        ssl_key=target.ssl_key or settings.DATABASE_SSL_KEY,
        application_name=target.application_name or settings.DATABASE_APPLICATION_NAME,
        connect_timeout=target.connect_timeout or settings.DATABASE_CONNECT_TIMEOUT,
        statement_timeout=_first(target.statement_timeout, settings.DATABASE_STATEMENT_TIMEOUT),
        lock_timeout=_first(target.lock_timeout, settings.DATABASE_LOCK_TIMEOUT),
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


def _profile_ca(settings: Settings) -> Any:
    return settings.DB_PROD_SSL_CA if settings.ENVIRONMENT == "production" else None


def _ssl_mode(target: Target, settings: Settings) -> Any:
    stated = target.ssl_mode or settings.DATABASE_SSL_MODE
    mode = stated or ("disable" if settings.is_local else "require")
    is_safe_without = target.is_socket or target.embedded is not None
    files = (target.ssl_ca, target.ssl_cert, settings.DATABASE_SSL_CA, settings.DATABASE_SSL_CERT)
    if stated is None and settings.is_local and not is_safe_without and any(files):
        raise ConfigurationError(
            "DATABASE_SSL_MODE must be set where a CA or a certificate is:"
            f" by default ENVIRONMENT={settings.ENVIRONMENT} uses no TLS",
            hint="DATABASE_SSL_MODE=verify-full",
        )
    if mode in _MAY_BE_PLAINTEXT and not settings.is_local and not is_safe_without:
        variable = "the URL's sslmode" if target.ssl_mode else "DATABASE_SSL_MODE"
        raise ConfigurationError(
            f"{variable} must be require, verify-ca or verify-full where ENVIRONMENT={settings.ENVIRONMENT},"
            f" got {mode!r}: it can be plaintext"
        )
    return mode


def _gateway(target: Target, settings: Settings) -> SshGateway | None:
    if not settings.DB_SSH_TUNNEL or target.embedded is not None:
        return None
    if target.cloud_sql_instance is not None:
        raise ConfigurationError(
            "DB_SSH_TUNNEL must be false where the host is Cloud SQL's: its connector is the tunnel"
        )
    known_hosts = settings.DB_SSH_KNOWN_HOSTS
    trusts_any = known_hosts is not None and str(known_hosts) == "none"
    if trusts_any and not settings.is_local:
        raise ConfigurationError(
            f"DB_SSH_KNOWN_HOSTS must name a file where ENVIRONMENT={settings.ENVIRONMENT}, got 'none':"
            " it trusts any host"
        )
    return SshGateway(
        host=settings.DB_SSH_HOST or "",
        port=settings.DB_SSH_PORT,
        user=settings.DB_SSH_USER,
        key=settings.DB_SSH_KEY,
        known_hosts="none" if trusts_any else known_hosts,
    )


def _first(value: int | None, other: int) -> int:
    return other if value is None else value
