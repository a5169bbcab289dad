"""What is in force, what is wrong and what goes on: info, wait, doctor, pool, health, activity.

Each name is imported at its first use: a command imports its own module, and none of the others'.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from src.database.cli.diagnose.abandoned import leave
    from src.database.cli.diagnose.activity import run_activity
    from src.database.cli.diagnose.doctor import run_doctor
    from src.database.cli.diagnose.health import EXIT_UNHEALTHY, run_health
    from src.database.cli.diagnose.info import run_info
    from src.database.cli.diagnose.pool import run_pool
    from src.database.cli.diagnose.revision import explain_drift
    from src.database.cli.diagnose.wait import run_wait

__all__ = [
    "EXIT_UNHEALTHY",
    "explain_drift",
    "leave",
    "run_activity",
    "run_doctor",
    "run_health",
    "run_info",
    "run_pool",
    "run_wait",
]

_MODULES: Final = {
    "EXIT_UNHEALTHY": "health",
    "explain_drift": "revision",
    "leave": "abandoned",
    "run_activity": "activity",
    "run_doctor": "doctor",
    "run_health": "health",
    "run_info": "info",
    "run_pool": "pool",
    "run_wait": "wait",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
