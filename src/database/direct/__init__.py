"""The short way from a session to its driver and back: SQL compiled once, rows made into entities by ourselves."""

from src.database.direct.entities import DIALECT, entities_of
from src.database.direct.run import Prepared, records, rows

__all__ = ["DIALECT", "Prepared", "entities_of", "records", "rows"]
