"""The part of PromQL that the alert rules use, evaluated over scrapes of a registry."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

__all__ = ["Scrapes"]

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
_TOKEN = re.compile(r'\s*("[^"]*"|[a-zA-Z_]\w*|\d+[smh]|\d+(?:\.\d+)?|==|!=|=~|!~|[-+/*<>=(){}\[\],])')
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_COMPARE: dict[str, Callable[[float, float], bool]] = {">": operator.gt, "<": operator.lt, "==": operator.eq}
_MERGE: dict[str, Callable[[list[float]], float]] = {"sum": sum, "max": max, "min": min}
_MATCH: dict[str, Callable[[str, str], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "=~": lambda value, pattern: re.fullmatch(pattern, value) is not None,
    "!~": lambda value, pattern: re.fullmatch(pattern, value) is None,
}


@dataclass
class Scrapes:
    """The samples that a Prometheus server has of one process, by time, with the labels that the server adds."""

    taken: list[tuple[float, dict[tuple[str, Labels], float]]] = field(default_factory=list)

    def scrape(self, registry: CollectorRegistry, at: float) -> None:
        """Read every sample, at a time in seconds."""
        added = {"job": "service", "instance": "one"}
        samples = (sample for family in registry.collect() for sample in family.samples)
        self.taken.append((at, {(one.name, frozenset({**one.labels, **added}.items())): one.value for one in samples}))

    def evaluate(self, query: str) -> Vector:
        """Return the series for which a rule holds at the last scrape."""
        tokens = _TOKEN.findall(query)
        assert "".join(tokens) == "".join(query.split()), query
        return _Query(self, tokens).disjunction()


class _Query:
    def __init__(self, scrapes: Scrapes, tokens: list[str]) -> None:
        self.scrapes = scrapes
        self.tokens = tokens

    def next_is(self, *wanted: str) -> bool:
        return bool(self.tokens) and self.tokens[0] in wanted

    def take(self, wanted: str | None = None) -> str:
        token = self.tokens.pop(0)
        assert wanted in {None, token}, f"{wanted} expected, got {token}"
        return token

    def disjunction(self) -> Vector:
        found = self.comparison()
        while self.next_is("or"):
            self.take()
            found = {**self.comparison(), **found}
        return found

    def comparison(self) -> Vector:
        left = self.quotient()
        if not self.next_is(*_COMPARE):
            return left
        holds, limit = _COMPARE[self.take()], float(self.take())
        return {labels: value for labels, value in left.items() if holds(value, limit)}

    def quotient(self) -> Vector:
        left = self.term()
        while self.next_is("/"):
            self.take()
            right = self.term()
            left = {labels: value / right[labels] for labels, value in left.items() if right.get(labels)}
        return left

    def term(self) -> Vector:
        name = self.take()
        if name in _MERGE:
            return self.aggregate(_MERGE[name])
        if name in {"increase", "rate"}:
            return self.over_time(name)
        found = self.selection(name)
        now = self.scrapes.taken[-1][1]
        return {labels: value for (of, labels), value in now.items() if found(of, labels)}

    def aggregate(self, merge: Callable[[list[float]], float]) -> Vector:
        self.take("by")
        names = set(self.listed("(", ")"))
        self.take("(")
        inner = self.disjunction()
        self.take(")")
        groups: dict[Labels, list[float]] = {}
        for labels, value in inner.items():
            groups.setdefault(frozenset((name, of) for name, of in labels if name in names), []).append(value)
        return {labels: merge(values) for labels, values in groups.items()}

    def over_time(self, function: str) -> Vector:
        """Return the increase of counters. A series needs two samples; the increase before the first does not count."""
        self.take("(")
        found = self.selection(self.take())
        self.take("[")
        length = self.take()
        self.take("]")
        self.take(")")
        seconds = int(length[:-1]) * _SECONDS[length[-1]]
        last = self.scrapes.taken[-1][0]
        window = [samples for at, samples in self.scrapes.taken if at > last - seconds]
        grown: Vector = {}
        for of, labels in window[-1]:
            values = [samples[of, labels] for samples in window if (of, labels) in samples]
            if found(of, labels) and len(values) > 1:
                grown[labels] = (values[-1] - values[0]) / (seconds if function == "rate" else 1)
        return grown

    def selection(self, metric: str) -> Callable[[str, Labels], bool]:
        matchers: list[tuple[str, str, str]] = []
        if self.next_is("{"):
            parts = iter(self.listed("{", "}"))
            matchers = [(label, how, next(parts).strip('"')) for label, how in _pairs(parts)]

        def matches(of: str, labels: Labels) -> bool:
            values = dict(labels)
            return of == metric and all(_MATCH[how](values.get(label, ""), wanted) for label, how, wanted in matchers)

        return matches

    def listed(self, begin: str, end: str) -> list[str]:
        self.take(begin)
        inner = []
        while not self.next_is(end):
            if (token := self.take()) != ",":
                inner.append(token)
        self.take(end)
        return inner


def _pairs(parts: Iterator[str]) -> Iterator[tuple[str, str]]:
    for label in parts:
        yield label, next(parts)
