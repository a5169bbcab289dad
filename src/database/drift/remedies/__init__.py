"""The statements that mend a difference, by the kind of what differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from src.database.drift.remedies import columns, constraints, indexes, programs, relations
from src.database.drift.remedies.remedy import Remedy

__all__ = ["REMEDIES"]

REMEDIES: Final[Mapping[str, Remedy]] = {
    "column": columns.REMEDY,
    "constraint": constraints.REMEDY,
    "domain": programs.DOMAIN,
    "enum": programs.ENUM,
    "extension": programs.EXTENSION,
    "function": programs.FUNCTION,
    "index": indexes.REMEDY,
    "policy": programs.POLICY,
    "rule": programs.RULE,
    "sequence": relations.SEQUENCE,
    "sequence owner": relations.SEQUENCE_OWNER,
    "table": relations.TABLE,
    "trigger": programs.TRIGGER,
    "view": relations.VIEW,
}
