from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from ruamel.yaml import YAML

from src.database.observability.metrics import metrics_of

ROOT = Path(__file__).parents[3]
ON_DEMAND = {
    "prometheus_client",
    "opentelemetry",
    "src.database.observability.metrics",
    "src.database.observability.tracing",
}

NAMED = re.compile("prometheus_client|opentelemetry|observability")


def names(registry: CollectorRegistry) -> set[str]:
    """Every name that a query can contain."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
    return {f"{family.name}{suffix}" for family in registry.collect() for suffix in suffixes[family.type]}


@pytest.fixture
def checked(registry: CollectorRegistry) -> CollectorRegistry:
    """The metrics after a check of the replica and the revision, which are absent before it."""
    metrics = metrics_of(registry)
    metrics.replica_seen(0)
    metrics.revision_seen(is_behind=False)
    return registry


@pytest.fixture
def exported(checked: CollectorRegistry) -> set[str]:
    return names(checked)


def test_every_metric_of_the_alert_rules_is_exported(exported: set[str]) -> None:
    rules = YAML(typ="safe").load((ROOT / "docs" / "operations" / "alerts.yaml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    used = {name for rule in alerts for name in re.findall(r"thea_db_\w+", rule["expr"])}

    assert used <= exported
    assert all({"alert", "expr", "for", "labels", "annotations"} == set(rule) for rule in alerts)
    assert all(rule["labels"]["severity"] in {"page", "ticket"} for rule in alerts)
    assert {"PoolExhausted", "Errors", "ReplicaLag", "RevisionBehind", "LongTransaction"} <= {
        rule["alert"].removeprefix("TheaDatabase") for rule in alerts
    }


def test_every_metric_of_the_page_is_exported_and_none_is_missing(checked: CollectorRegistry) -> None:
    page = (ROOT / "docs" / "observability.md").read_text()
    documented = set(re.findall(r"^\| `(thea_db_\w+)`", page, flags=re.MULTILINE))

    assert documented == {family.name + ("_total" if family.type == "counter" else "") for family in checked.collect()}


def imported_by(path: Path) -> Iterator[str]:
    """Return the packages and modules that a module imports when it is imported."""
    for line in ast.parse(path.read_text()).body:
        if isinstance(line, ast.Import):
            yield from (name.name for name in line.names)
        elif isinstance(line, ast.ImportFrom) and line.module is not None:
            yield line.module


def test_a_package_that_is_switched_off_is_not_imported() -> None:
    speaking = [path for path in (ROOT / "src").rglob("*.py") if NAMED.search(path.read_text())]
    eager = {
        path.name
        for path in speaking
        if any(name in ON_DEMAND or name.split(".")[0] in ON_DEMAND for name in imported_by(path))
    }

    assert eager == {"metrics.py", "tracing.py"}
