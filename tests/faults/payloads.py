"""Attack strings: sqlmap's tests within its boundaries, templates, and strings from hypothesis."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distribution
from itertools import product
from xml.etree import ElementTree as ET

from hypothesis import strategies as st

__all__ = ["HOSTILE", "payloads"]

# Placeholders that sqlmap replaces at run time.
_GIVEN = {
    "INFERENCE": "1=1",
    "GENERIC_SQL_COMMENT": "-- ",
    "ORIGVALUE": "1",
    "RANDSTR": "abcd",
    "SLEEPTIME": "0",
    "DELIMITER_START": "qx",
    "DELIMITER_STOP": "xq",
    "QUERY": "SELECT content FROM notes",
    "UNION": "UNION ALL",
    "CHAR": "NULL",
}
_PLACE = re.compile(r"\[([A-Z0-9_]+)\]")
_OF_OTHER_TONGUES = [
    "",
    " ",
    "'",
    '"',
    "\\",
    "\0",
    "\ud800",
    "\udfff'",
    "%",
    "_",
    "%s",
    "%(x)s",
    ":x",
    ":tenant_id",
    "$1",
    "$$",
    "?",
    "{0}",
    "{}",
    "{{7*7}}",
    "${7*7}",
    "\\'; DROP TABLE users; --",
    "$.x ? (@ == 1)",
    "$.**",
    "a'::jsonb",
    "{a,b}",
    "[1:2]",
    "'a' & !b:* | (c <-> d)",
    '" or "',
    "-",
    "-'",
    "or or or",
    "\u202e\u2066",
    "\ufeff",
    "ﬀ",
    "İ",
    "\uff11",
    "../../etc/passwd",
    "$(id)",
    "`id`",
    "; id",
    "|id",
    "-h",
    "--help",
    "\r\nX: y",
    "\x1b[2J",
    "a" * 2000,
    "'" * 999,
    "((((" * 200,
]


@cache
def payloads() -> tuple[str, ...]:
    """Return each of sqlmap's tests within each of its boundaries, as sqlmap sends them: tens of thousands."""
    tests = [_text(test.find("request"), "payload") + _text(test.find("request"), "comment") for test in _tests()]
    ends = [(_text(end, "prefix"), _text(end, "suffix")) for end in _read("boundaries.xml").iter("boundary")]
    made = {_filled(f"1{prefix} {test} {suffix}") for (prefix, suffix), test in product(set(ends), set(tests)) if test}
    return tuple(sorted(made))


def _tests() -> Iterator[ET.Element]:
    for kind in ("boolean_blind", "error_based", "inline_query", "stacked_queries", "time_blind", "union_query"):
        yield from _read(f"payloads/{kind}.xml").iter("test")


def _read(name: str) -> ET.Element:
    path = distribution("sqlmap").locate_file(f"sqlmap/data/xml/{name}")
    return ET.parse(str(path)).getroot()  # noqa: S314 - of a package that is installed


def _text(element: ET.Element | None, name: str) -> str:
    return "" if element is None else (element.findtext(name) or "")


def _filled(template: str) -> str:
    return _PLACE.sub(lambda place: _GIVEN.get(place[1], "1"), template)


HOSTILE = st.one_of(
    st.deferred(lambda: st.sampled_from(payloads())),
    st.sampled_from(_OF_OTHER_TONGUES),
    st.text(st.characters(), max_size=40),  # includes lone surrogates and NUL
    st.builds(
        "{}{}{}".format,
        st.sampled_from(_OF_OTHER_TONGUES[:44]),
        st.text(max_size=5),
        st.sampled_from(["'", "--", "\0"]),
    ),
)
