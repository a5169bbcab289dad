"""Settings: one frozen class; a field is named as its variable is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from pydantic import (
    BeforeValidator,
    Field,
    InstanceOf,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import URL

from src.config.constants import APPLICATION_NAME, DEFAULT_TENANT_ID, ENVIRONMENTS, LOCAL_ENVIRONMENTS
from src.config.files import environment_files, faults_of_file, near_misses
from src.config.logging import get_logger
from src.database.errors import ConfigurationError
from src.database.target import Target
from src.database.url import parse_url

__all__ = ["Settings", "get_settings"]

_URL_RULE: Final = "a URL like postgresql://user:password@host:5432/name"
_SECRET_FIELDS: Final = frozenset({"DATABASE_URL", "DATABASE_MIGRATION_URL"})


def _database_url(value: Any) -> URL:
    """Parse a URL; what it says of hosts and parameters is checked with it."""
    try:
        url = parse_url(value if isinstance(value, URL) else str(value))
    except ValueError as error:
        raise PydanticCustomError("url", "{fault}", {"fault": str(error)}) from None
    if faults := Target.faults_of_url(url):
        raise PydanticCustomError("url", "{fault}", {"fault": "; ".join(faults)})
    return url


DatabaseUrl = Annotated[InstanceOf[URL], BeforeValidator(_database_url)]


class Settings(BaseSettings):
    """What differs between environments, checked as a whole before anything connects.

    Each field's description is the rule that its value must keep; an error message quotes it.

    Raises:
        ConfigurationError: With all the faults at once, and no secret in the text.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", case_sensitive=True, env_ignore_empty=True, arbitrary_types_allowed=True
    )

    ENVIRONMENT: Literal["development", "test", "staging", "production"] = Field(
        default="development", description=f"one of {', '.join(ENVIRONMENTS)}"
    )
    DATABASE_URL: DatabaseUrl | None = Field(default=None, description=_URL_RULE)
    DATABASE_MIGRATION_URL: DatabaseUrl | None = Field(default=None, description=_URL_RULE)
    DATABASE_EMBEDDED_DIR: Path = Field(default=Path(".thea/postgres"), description="a folder")
    DATABASE_POOL_SIZE: int = Field(default=5, ge=1, le=1000, description="a whole number from 1 to 1000")
    DATABASE_MAX_OVERFLOW: int = Field(default=10, ge=0, le=1000, description="a whole number from 0 to 1000")
    DATABASE_POOL_RECYCLE: int = Field(default=3600, ge=1, description="whole seconds, 1 or more")
    DATABASE_POOL_TIMEOUT: float = Field(default=30, gt=0, le=3600, description="seconds, above 0 and up to 3600")
    DATABASE_CONNECT_TIMEOUT: float = Field(default=10, gt=0, le=600, description="seconds, above 0 and up to 600")
    DATABASE_ECHO: bool = Field(default=False, description="true or false")
    DATABASE_SSL_MODE: Literal["disable", "require", "verify-ca", "verify-full"] | None = Field(
        default=None, description="one of disable, require, verify-ca, verify-full"
    )
    DATABASE_SSL_CA: Path | None = Field(default=None, description="the path of a PEM file")
    DATABASE_APPLICATION_NAME: str = Field(
        default=APPLICATION_NAME, min_length=1, max_length=63, description="1 to 63 characters"
    )
    DATABASE_DEFAULT_TENANT: UUID | None = Field(
        default_factory=lambda data: DEFAULT_TENANT_ID if data.get("ENVIRONMENT") in LOCAL_ENVIRONMENTS else None,
        description="a UUID",
    )

    @model_validator(mode="wrap")
    @classmethod
    def _tell_all_faults_at_once(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        faults, settings = [], None
        try:
            settings = handler(data)
        except ValidationError as error:
            faults = _describe(error)
        if missing := _missing_target(data):
            faults.append(missing)
        if settings is None or faults:  # outside the except block: the chain would carry the raw values
            raise _configuration_error(faults)
        return settings

    @property
    def is_local(self) -> bool:
        """Whether this is a developer's or a test's environment."""
        return self.ENVIRONMENT in LOCAL_ENVIRONMENTS


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Return the settings of this process, read once from the environment and the ``.env`` files.

    Raises:
        ConfigurationError: With all the faults at once.
    """
    files = environment_files(os.environ)
    fields = Settings.model_fields
    faults = [fault for file in files for fault in faults_of_file(file, fields)]
    for fault in near_misses(os.environ, fields):
        get_logger(__name__).warning("unknown_setting", fault=fault)
    if faults:
        raise _configuration_error([*faults, *_faults_beside(files)])
    return Settings(_env_file=files)


def _faults_beside(files: tuple[Path, ...]) -> list[str]:
    try:
        Settings(_env_file=files)
    except ConfigurationError as error:
        return str(error.args[0]).splitlines()
    return []


def _missing_target(data: Any) -> str | None:
    environment = data.get("ENVIRONMENT") if isinstance(data, dict) else None
    if environment not in {"staging", "production"} or data.get("DATABASE_URL"):
        return None
    return f"DATABASE_URL must be set where ENVIRONMENT={environment}, to {_URL_RULE}"


def _describe(error: ValidationError) -> list[str]:
    """Say each fault as `<name> must be <rule>, got <value>`; a URL's value is never repeated."""
    return [
        _describe_one(str(fault["loc"][0]) if fault["loc"] else "", fault)
        for fault in error.errors(include_url=False, include_context=False)
        if fault["type"] != "default_factory_not_called"  # it waits for another field, which has its own fault
    ]


def _describe_one(name: str, fault: Mapping[str, Any]) -> str:
    field = Settings.model_fields.get(name)
    if field is None:
        return str(fault["msg"])
    if name in _SECRET_FIELDS:
        return f"{name} must be {field.description}: {fault['msg']} (its value is not shown)"
    return f"{name} must be {field.description}, got {str(fault['input'])!r}"


def _configuration_error(faults: list[str]) -> ConfigurationError:
    return ConfigurationError("\n".join(dict.fromkeys(faults)), hint="every setting is explained in .env.example")
