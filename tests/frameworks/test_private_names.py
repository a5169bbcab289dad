"""The rule of tests/test_architecture.py for private names, for the modules that import a framework."""

from __future__ import annotations

from src.database import integrations
from src.database.integrations.aiogram import SessionMiddleware
from tests.test_architecture import inherited_private_names, our_classes


def test_integrations_use_no_inherited_private_name() -> None:
    kinds = our_classes(integrations)

    assert SessionMiddleware in kinds
    assert [name for kind in kinds for name in inherited_private_names(kind)] == []
