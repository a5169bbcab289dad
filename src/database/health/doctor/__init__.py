"""The checks of `thea-db doctor` and `thea-db check --service`. Only the commands import this package."""

from src.database.health.doctor.connection import Encryption, encryption_of, reach
from src.database.health.doctor.demand import Demand, Suggestion, demand_of, suggest, useful_connections
from src.database.health.doctor.examination import examine
from src.database.health.doctor.schema import explain_drift
from src.database.health.doctor.service import examine_service
from src.database.health.doctor.wait import AbandonedThreads, Waited, wait_for_server

__all__ = [
    "AbandonedThreads",
    "Demand",
    "Encryption",
    "Suggestion",
    "Waited",
    "demand_of",
    "encryption_of",
    "examine",
    "examine_service",
    "explain_drift",
    "reach",
    "suggest",
    "useful_connections",
    "wait_for_server",
]
