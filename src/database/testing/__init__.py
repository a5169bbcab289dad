"""The tools of the pytest plugin: databases of a test run, assertions, rows and a clock for reminders."""

from src.database.testing.clock import ReminderClock
from src.database.testing.factories import (
    Factories,
    MakeConversation,
    MakeEvent,
    MakeMessage,
    MakeNote,
    MakeUser,
)
from src.database.testing.isolation import AssertIsolated, Isolation
from src.database.testing.queries import AssertQueries, Queries
from src.database.testing.run import TestDatabases
from src.database.testing.server import URL_VARIABLE, TestRun, TestServer
from src.database.testing.tenants import OTHER_TENANT, TENANT, tenant_of

__all__ = [
    "OTHER_TENANT",
    "TENANT",
    "URL_VARIABLE",
    "AssertIsolated",
    "AssertQueries",
    "Factories",
    "Isolation",
    "MakeConversation",
    "MakeEvent",
    "MakeMessage",
    "MakeNote",
    "MakeUser",
    "Queries",
    "ReminderClock",
    "TestDatabases",
    "TestRun",
    "TestServer",
    "tenant_of",
]
