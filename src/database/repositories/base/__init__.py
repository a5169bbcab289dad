"""The generic base of repositories: reads, pages and writes of one table's rows, always within one tenant."""

from src.database.repositories.base.conditions import Condition, Option
from src.database.repositories.base.repository import Build, Repository, read_only_attributes
from src.database.repositories.base.upsert import Upserted, insert_unless_there, select_by_key

__all__ = [
    "Build",
    "Condition",
    "Option",
    "Repository",
    "Upserted",
    "insert_unless_there",
    "read_only_attributes",
    "select_by_key",
]
