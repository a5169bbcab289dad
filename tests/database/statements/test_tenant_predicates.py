"""Each tenant predicate of the SQL functions and of the fenced reads is removed in turn, and a call notices it.

As a superuser, whom row-level security does not bind: the predicates stand alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from src.database.statements.read import Read
from src.database.store import state
from src.database.store import statements as store_statements
from tests.database.statements.bodies import bodies
from tests.database.statements.twins import FIRST, SECOND, answers, insert_rows

PREDICATE = re.compile(r"\b(\w+)\.tenant_id = (p_tenant|\w+\.tenant_id)\b")
READS = {name: read for name, read in (vars(store_statements) | vars(state)).items() if isinstance(read, Read)}
TABLE = re.compile(
    r"(?:FROM|JOIN|UPDATE) \{schema\}\.(?:users|user_identities|conversations|message_history|events|state_entries)\b"
    r"(?: AS (\w+))?"
)


@dataclass(frozen=True)
class Mutant:
    """A function or a read without the tenant's predicate of one of its tables."""

    name: str
    original: str
    text: str
    callers: tuple[str, ...]
    """A call is affected if it sends a statement with one of these in it."""
    is_function: bool


def loosened(text: str, separator: str) -> Iterator[tuple[str, str]]:
    """Yield a text without the predicates of one table, for each table of each statement.

    Where two tables are compared with each other and both with the tenant, one predicate follows from the others, and
    its absence changes nothing. So all predicates of the table are removed.
    """
    start = 0
    for statement in re.split(separator, text):
        found = list(PREDICATE.finditer(statement))
        aliases = {match[1]: None for match in found}
        for alias in aliases:
            loose = [match for match in found if alias in (match[1], match[2].split(".")[0])]
            changed = statement
            for match in reversed(loose):
                changed = f"{changed[: match.start()]}true{changed[match.end() :]}"
            line = text.count("\n", 0, start + loose[0].start()) + 1
            yield f"{alias}, line {line}", f"{text[:start]}{changed}{text[start + len(statement) :]}"
        start += len(statement)


def mutants_of_functions() -> Iterator[Mutant]:
    texts = bodies()
    for name, text in texts.items():
        callers = {name}
        while more := {outer for outer, body in texts.items() for one in callers if f".{one}(" in body} - callers:
            callers |= more
        for where, changed in loosened(text, r"(?<=;\n)"):
            yield Mutant(f"{name}, {where}", text, changed, tuple(f"{caller}(" for caller in callers), is_function=True)


def mutants_of_reads() -> Iterator[Mutant]:
    for name, read in READS.items():
        for match in PREDICATE.finditer(read.sql):
            changed = f"{read.sql[: match.start()]}true{read.sql[match.end() :]}"
            yield Mutant(f"{name}, {match[1]}", read.sql, changed, (read.sql,), is_function=False)


async def test_removing_any_tenant_predicate_changes_the_result_of_a_call(
    connection: asyncpg.Connection[Any],
) -> None:
    """A call answers the same whether another tenant has rows with the same ids or none; without a predicate not."""
    alone = connection.transaction()
    await alone.start()
    await insert_rows(connection, FIRST)
    expected: dict[str, Any] = {}
    sent: dict[str, list[str]] = {}
    async for name, answer, statements in answers(connection):
        expected[name], sent[name] = answer, statements
    await alone.rollback()
    await insert_rows(connection, FIRST, SECOND)
    with_another = {name: answer async for name, answer, _ in answers(connection)}
    mutants = [*mutants_of_functions(), *mutants_of_reads()]

    unnoticed = []
    for mutant in mutants:
        affected = [name for name, texts in sent.items() if any(c in sql for c in mutant.callers for sql in texts)]
        if not await is_noticed(connection, mutant, affected, expected):
            unnoticed.append(mutant.name)

    assert with_another == expected
    assert unnoticed == []
    assert len(mutants) > 30


async def is_noticed(
    connection: asyncpg.Connection[Any], mutant: Mutant, affected: list[str], expected: dict[str, Any]
) -> bool:
    """Return True if an affected call answers otherwise than expected, or changes the other tenant's rows."""
    savepoint = connection.transaction()
    await savepoint.start()
    try:
        if mutant.is_function:
            body = mutant.text.replace("{schema}", "public")
            await connection.execute(body.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1))
        changed = {} if mutant.is_function else {mutant.original: mutant.text}
        async with aclosing(answers(connection, affected, lambda sql: changed.get(sql, sql))) as found:
            async for name, answer, _ in found:
                if answer != expected[name]:
                    return True
        return False
    finally:
        await savepoint.rollback()


@pytest.mark.parametrize("name", sorted(bodies()))
def test_each_table_in_a_function_has_a_predicate(name: str) -> None:
    for statement in re.split(r";\n", bodies()[name].split("$$")[1]):
        aliases = TABLE.findall(statement)
        bound = {one for match in PREDICATE.finditer(statement) for one in (match[1], match[2].split(".")[0])}

        assert set(aliases) <= bound, statement
