"""Settings: one frozen class, whose fields are named like their variables; and the source of each value."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args
from uuid import UUID

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    InstanceOf,
    ModelWrapValidatorHandler,
    PlainSerializer,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import URL

from src.config.constants import APPLICATION_NAME, DEFAULT_TENANT_ID, LOCAL_ENVIRONMENTS, PROFILES
from src.config.files import environment_files, faults_of_file, faults_of_process
from src.config.logging import get_logger
from src.database.errors import ConfigurationError
from src.database.target import SslMode, Target, hosts_of, parse_url, warnings_of

_URL_RULE: Final = "a URL like postgresql://user:password@host:5432/name"
_MILLISECONDS: Final = "whole milliseconds, 0 (no limit) or more"
_TEXT: Final = "1 to 255 characters"
_LARGEST_INTEGER: Final = 2_147_483_647  # the limit of an integer parameter of the server
# Without upper case and special characters: such a name needs quotes in some places and none in others, and PostgreSQL
# folds a name without quotes to lower case, and truncates a name of more than 63 bytes.
_SCHEMA: Final = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,62}")
_OTHER_URLS: Final = ("DATABASE_REPLICA_URL", "DATABASE_MIGRATION_URL", "DATABASE_ADMIN_URL", "DATABASE_BACKUP_URL")


def _database_url(value: Any) -> URL:
    """Parse a URL, and check its hosts and parameters."""
    try:
        url = parse_url(value if isinstance(value, URL) else str(value))
    except ValueError as error:
        raise PydanticCustomError("url", "{fault}", {"fault": str(error)}) from None
    if faults := Target.faults_of_url(url):
        raise PydanticCustomError("url", "{fault}", {"fault": "; ".join(faults)})
    return url


def _hosts(value: str) -> str:
    """Check the hosts of a profile. A port in the value is a fault, since the port has its own variable."""
    hosts_of(URL.create("postgresql", query={"host": value, "port": "1"}))
    return value


def _gateway(value: str) -> str:
    if "," in value or value.startswith("/"):
        raise ValueError("several hosts, or a folder")
    return _hosts(value)


def _folder(value: Path) -> Path:
    try:
        value.expanduser()
    except RuntimeError:
        raise ValueError("no such user") from None
    return value


def _function(value: str) -> str:
    module, _, function = value.partition(":")
    if not function.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise ValueError("not module:function")
    return value


def _version_table(value: str) -> str:
    # 59: Alembic's key is named <table>_pkc.
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,58}", value) or value == "thea_alembic_version":
        raise ValueError("not the name of a table")
    return value


def _modules(value: str) -> str:
    for module in value.split(","):
        if not all(part.isidentifier() for part in module.strip().split(".")):
            raise ValueError("not the names of modules")
    return value


def _schema(value: str) -> str:
    if not _SCHEMA.fullmatch(value) or value == "information_schema":
        raise ValueError("not such a name")
    return value


def _name(value: str) -> str:
    if not value.isprintable():
        raise ValueError("not printable")
    return value


Environment = Literal["development", "test", "staging", "production"]
DatabaseUrl = Annotated[
    InstanceOf[URL], BeforeValidator(_database_url), PlainSerializer(str)
]  # str() masks the password
Port = Annotated[int, Field(ge=1, le=65535, description="a port, 1 to 65535")]
Milliseconds = Annotated[int, Field(ge=0, le=_LARGEST_INTEGER, description=_MILLISECONDS)]
Text = Annotated[str, Field(min_length=1, max_length=255, description=_TEXT)]
# The description must be outside of `X | None`: inside, pydantic would attach it to X and not to the field.
OptionalText = Annotated[Text | None, Field(description=_TEXT)]
OptionalHosts = Annotated[
    Annotated[str, AfterValidator(_hosts)] | None,
    Field(description="a host name, an address or a socket's folder, without a port"),
]
OptionalGateway = Annotated[
    Annotated[str, AfterValidator(_gateway)] | None, Field(description="one host name or address, without a port")
]
OptionalPemFile = Annotated[Path | None, Field(description="the path of a PEM file")]
OptionalPassword = Annotated[SecretStr | None, Field(description="a password")]


class Settings(BaseSettings):
    """The settings; all of them are checked before the first connection.

    Each field's description is the rule for its value, which the error message quotes.

    Raises:
        ConfigurationError: The settings are not valid; the message has all faults and no secret.
    """

    model_config = SettingsConfigDict(
        # Platforms and Compose files set variables to "" for "not set": an empty value counts as missing.
        frozen=True,
        extra="ignore",
        case_sensitive=True,
        env_ignore_empty=True,
        arbitrary_types_allowed=True,
    )

    ENVIRONMENT: Environment = Field(default="development", description=f"one of {', '.join(get_args(Environment))}")
    DATABASE_URL: DatabaseUrl | None = Field(default=None, description=_URL_RULE)
    DATABASE_MIGRATION_URL: DatabaseUrl | None = Field(default=None, description=_URL_RULE)
    DATABASE_ADMIN_URL: DatabaseUrl | None = Field(default=None, description=_URL_RULE)
    DATABASE_BACKUP_URL: DatabaseUrl | None = Field(default=None, description=_URL_RULE)
    DATABASE_REPLICA_URL: DatabaseUrl | None = Field(default=None, description=_URL_RULE)
    DATABASE_EMBEDDED_DIR: Annotated[Path, AfterValidator(_folder)] = Field(
        default=Path(".thea/postgres"), description="a folder"
    )
    DATABASE_PASSWORD_PROVIDER: Annotated[str, AfterValidator(_function)] | None = Field(
        default=None, description="module:function that can be imported"
    )
    DATABASE_SCHEMA: Annotated[str, AfterValidator(_schema)] | None = Field(
        default=None,
        description="the name of a schema: 1 to 63 of a-z, 0-9 and _, beginning with a letter or _, and not with pg_",
    )
    DATABASE_PGBOUNCER: bool = Field(default=False, description="true or false")
    DATABASE_PGBOUNCER_PREPARED: bool = Field(default=False, description="true or false")

    DB_VM_HOST: OptionalHosts = None
    DB_VM_PORT: Port = 5432
    DB_VM_NAME: Text = "iact_dev"
    DB_VM_USER: OptionalText = None
    DB_VM_PASSWORD: OptionalPassword = None
    DB_STAGING_HOST: OptionalHosts = None
    DB_STAGING_PORT: Port = 5432
    DB_STAGING_NAME: Text = "iact_staging"
    DB_STAGING_USER: OptionalText = None
    DB_STAGING_PASSWORD: OptionalPassword = None
    DB_PROD_HOST: OptionalHosts = None
    DB_PROD_PORT: Port = 5432
    DB_PROD_NAME: Text = "iact_production"
    DB_PROD_USER: OptionalText = None
    DB_PROD_PASSWORD: OptionalPassword = None
    DB_PROD_SSL_CA: OptionalPemFile = None

    DB_SSH_TUNNEL: bool = Field(default=False, description="true or false")
    DB_SSH_HOST: OptionalGateway = None
    DB_SSH_PORT: Port = 22
    DB_SSH_USER: OptionalText = None
    DB_SSH_KEY: Path | None = Field(default=None, description="the path of a private key")
    DB_SSH_KNOWN_HOSTS: Path | None = Field(default=None, description="the path of a known_hosts file, or none")

    DATABASE_SSL_MODE: SslMode | None = Field(default=None, description=f"one of {', '.join(get_args(SslMode))}")
    DATABASE_SSL_CA: OptionalPemFile = None
    DATABASE_SSL_CERT: OptionalPemFile = None
    DATABASE_SSL_KEY: OptionalPemFile = None

    DATABASE_POOL_SIZE: int = Field(default=5, ge=1, le=1000, description="a whole number from 1 to 1000")
    DATABASE_MAX_OVERFLOW: int = Field(default=10, ge=0, le=1000, description="a whole number from 0 to 1000")
    DATABASE_POOL_RECYCLE: int = Field(default=3600, ge=1, description="whole seconds, 1 or more")
    DATABASE_POOL_TIMEOUT: float = Field(default=30, gt=0, le=3600, description="seconds, above 0 and up to 3600")
    DATABASE_CONNECT_TIMEOUT: float = Field(default=10, gt=0, le=600, description="seconds, above 0 and up to 600")
    DATABASE_STATEMENT_TIMEOUT: Milliseconds = 30_000
    DATABASE_LOCK_TIMEOUT: Milliseconds = 10_000
    DATABASE_IDLE_TRANSACTION_TIMEOUT: Milliseconds = 60_000
    DATABASE_FAST_PATH: bool = Field(default=True, description="true or false")
    DATABASE_SERVICE_MODELS: Annotated[str, AfterValidator(_modules)] | None = Field(
        default=None, description="the name of a module that can be imported, or several separated by commas"
    )
    DATABASE_SERVICE_MIGRATIONS: Annotated[Path, AfterValidator(_folder)] | None = Field(
        default=None, description="a folder"
    )
    DATABASE_SERVICE_VERSION_TABLE: Annotated[str, AfterValidator(_version_table)] = Field(
        default="alembic_version",
        description="the name of a table: 1 to 59 of a-z, 0-9 and _, not beginning with a digit, and not"
        " thea_alembic_version",
    )
    DATABASE_VERIFY_SCHEMA: Literal["off", "warn", "error"] = Field(default="warn", description="off, warn or error")
    DATABASE_ECHO: bool = Field(default=False, description="true or false")
    DATABASE_LOG_PARAMETERS: bool = Field(default=False, description="true or false")
    DATABASE_LOG_NOTICES: bool = Field(default=False, description="true or false")
    DATABASE_SLOW_QUERY_MS: Annotated[int, Field(ge=0, description="whole milliseconds, 0 (off) or more")] = 0
    DATABASE_SLOW_QUERY_PLAN: bool = Field(default=False, description="true or false")
    DATABASE_REPEATED_QUERIES: Annotated[int, Field(ge=0, description="a whole number, 0 (off) or more")] = 0
    DATABASE_METRICS: bool = Field(default=False, description="true or false")
    DATABASE_TRACING: bool = Field(default=False, description="true or false")
    DATABASE_APPLICATION_NAME: Annotated[str, AfterValidator(_name)] = Field(
        default=APPLICATION_NAME, min_length=1, max_length=63, description="1 to 63 printable characters"
    )
    DATABASE_DEFAULT_TENANT: UUID | None = Field(
        default_factory=lambda data: DEFAULT_TENANT_ID if data.get("ENVIRONMENT") in LOCAL_ENVIRONMENTS else None,
        description="a UUID",
    )

    # pydantic does not run an "after" validator if a field is wrong, and would report only the faults of fields.
    @model_validator(mode="wrap")
    @classmethod
    def _report_all_faults_together(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        faults, settings = [], None
        try:
            settings = handler(data)
        except ValidationError as error:
            faults = _describe(error)
        faults += _faults_of_combinations(data if isinstance(data, dict) else {})
        if settings is None or faults:  # outside the except block: the cause would contain the raw values
            raise _configuration_error(faults)
        return settings

    @property
    def is_local(self) -> bool:
        """True in development and test."""
        return self.ENVIRONMENT in LOCAL_ENVIRONMENTS


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Return the settings of this process, read once from the environment and the ``.env`` files.

    Raises:
        ConfigurationError: The settings are not valid; the message has all faults.
    """
    files = environment_files(os.environ)
    fields = Settings.model_fields
    faults = [fault for file in files for fault in faults_of_file(file, fields)]
    for fault in faults_of_process(os.environ, fields):
        get_logger(__name__).warning("unknown_setting", fault=fault)
    if faults:
        raise _configuration_error([*faults, *_faults_beside(files)])
    settings = Settings(_env_file=files)
    for name in ("DATABASE_URL", *_OTHER_URLS):
        url = getattr(settings, name)
        for warning in warnings_of(url) if url is not None else ():
            get_logger(__name__).warning("parameter_without_effect", setting=name, fault=warning)
    return settings


def _faults_beside(files: tuple[Path, ...]) -> list[str]:
    try:
        Settings(_env_file=files)
    except ConfigurationError as error:
        return str(error.args[0]).splitlines()
    return []


def _faults_of_combinations(data: Mapping[str, Any]) -> list[str]:
    """Return the faults of settings that depend on others.

    The raw values are checked, not the fields: a fault of one field would hide these otherwise.
    """
    environment = data.get("ENVIRONMENT") or "development"
    faults = _faults_of_target(data, environment)
    if _is_true(data, "DB_SSH_TUNNEL") and not data.get("DB_SSH_HOST"):
        faults.append("DB_SSH_HOST must be set if DB_SSH_TUNNEL=true: the machine that the tunnel goes through")
    if bool(data.get("DATABASE_SSL_CERT")) != bool(data.get("DATABASE_SSL_KEY")):
        faults.append("DATABASE_SSL_CERT and DATABASE_SSL_KEY must be set together")
    if bool(data.get("DATABASE_SERVICE_MODELS")) != bool(data.get("DATABASE_SERVICE_MIGRATIONS")):
        faults.append("DATABASE_SERVICE_MODELS and DATABASE_SERVICE_MIGRATIONS must be set together")
    if _is_true(data, "DATABASE_LOG_PARAMETERS") and environment not in LOCAL_ENVIRONMENTS:
        faults.append(
            f"DATABASE_LOG_PARAMETERS must be false if ENVIRONMENT={environment}: parameters contain what users wrote"
        )
    if _is_true(data, "DATABASE_SLOW_QUERY_PLAN") and str(data.get("DATABASE_SLOW_QUERY_MS") or 0) == "0":
        faults.append("DATABASE_SLOW_QUERY_MS must be above 0 if DATABASE_SLOW_QUERY_PLAN=true")
    if _is_true(data, "DATABASE_PGBOUNCER_PREPARED") and not _is_true(data, "DATABASE_PGBOUNCER"):
        faults.append("DATABASE_PGBOUNCER must be true if DATABASE_PGBOUNCER_PREPARED=true")
    return faults


def _faults_of_target(data: Mapping[str, Any], environment: str) -> list[str]:
    """Return the faults of an environment that names no target.

    In development and test no target is needed, unless other settings depend on it: the embedded server is used.
    """
    prefix = PROFILES.get(environment)
    if data.get("DATABASE_URL") or (prefix and data.get(f"{prefix}HOST") and data.get(f"{prefix}USER")):
        return []
    needed = [f"{prefix}{part}" for part in ("HOST", "USER") if prefix and not data.get(f"{prefix}{part}")]
    faults, is_local = [], environment in LOCAL_ENVIRONMENTS
    if is_local:
        is_begun = any(data.get(f"{prefix}{part}") for part in ("HOST", "PORT", "NAME", "PASSWORD"))
        needed = [f"{prefix}USER"] if prefix and is_begun and not data.get(f"{prefix}USER") else []
    if needed:
        faults.append(
            f"DATABASE_URL must be set if ENVIRONMENT={environment}, to {_URL_RULE}; or set {' and '.join(needed)}"
            " instead"
        )
    others = [name for name in _OTHER_URLS if data.get(name)]
    others += ["DATABASE_PGBOUNCER"] if _is_true(data, "DATABASE_PGBOUNCER") else []
    if others and is_local and not (prefix and data.get(f"{prefix}USER")):
        faults.append(f"DATABASE_URL must be set together with {' and '.join(others)}")
    return faults


def _is_true(data: Mapping[str, Any], name: str) -> bool:
    return str(data.get(name)).lower() in {"true", "1", "yes", "on", "t", "y"}


def _describe(error: ValidationError) -> list[str]:
    """Return each fault as `<name> must be <rule>, got <value>`; a URL's value is never repeated."""
    return [
        _describe_one(str(fault["loc"][0]) if fault["loc"] else "", fault)
        for fault in error.errors(include_url=False, include_context=False)
        if fault["type"] != "default_factory_not_called"  # the default depends on a field that has its own fault
    ]


def _describe_one(name: str, fault: Mapping[str, Any]) -> str:
    field = Settings.model_fields.get(name)
    if field is None:
        return str(fault["msg"])
    if name.endswith(("_URL", "_PASSWORD")):
        return f"{name} must be {field.description}: {fault['msg']} (its value is not shown)"
    return f"{name} must be {field.description}, got {str(fault['input'])!r}"


def _configuration_error(faults: list[str]) -> ConfigurationError:
    return ConfigurationError("\n".join(dict.fromkeys(faults)), hint=".env.example describes every setting")


@dataclass(frozen=True, slots=True)
class ShownSetting:
    """A setting for display, without anything secret."""

    name: str
    value: str | int | float | bool | None
    source: str
    """``environment``, the name of a file, or ``default``."""


def show_settings(settings: Settings, environ: Mapping[str, str] = os.environ) -> list[ShownSetting]:
    """Return every setting with its source, in the order of the class.

    Raises:
        ConfigurationError: ``ENV_FILE`` names a file that does not exist.
    """
    found = set_values(environ)
    return [
        ShownSetting(name, _shown(getattr(settings, name)), found.get(name, ("", "default"))[1])
        for name in Settings.model_fields
    ]


def set_values(environ: Mapping[str, str] = os.environ) -> dict[str, tuple[str, str]]:
    """Return the raw value and the source of each setting that is set. A value may be secret, and may be invalid.

    The precedence is that of pydantic-settings: the environment before the files, a later file before an earlier one.
    An empty value counts as not set.

    Raises:
        ConfigurationError: ``ENV_FILE`` names a file that does not exist.
    """
    found: dict[str, tuple[str, str]] = {}
    for file in environment_files(environ):
        found |= {name: (value, str(file)) for name, value in dotenv_values(file).items() if value}
    found |= {name: (value, "environment") for name, value in environ.items() if value}
    return {name: entry for name, entry in found.items() if name in Settings.model_fields}


def _shown(value: Any) -> str | int | float | bool | None:
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, URL):
        return value.render_as_string(hide_password=True)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
