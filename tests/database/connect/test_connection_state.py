"""The state of a connection, transition by transition."""

from __future__ import annotations

import time

import pytest

from src.database.connect.connection import ConnectionState

BEGIN = "BEGIN READ ONLY; SELECT app_set_tenant(NULL)"


@pytest.fixture
def state() -> ConnectionState:
    return ConnectionState()


def test_an_opened_connection_retires_after_its_lifetime_and_was_not_kept(state: ConnectionState) -> None:
    state.opened(lifetime=10)

    assert 9 < state.retires_at - time.monotonic() <= 10
    assert not state.was_kept


def test_a_connection_that_is_checked_in_is_idle_and_was_kept(state: ConnectionState) -> None:
    state.checked_in()

    assert state.idle_since == pytest.approx(time.monotonic(), abs=1)
    assert state.was_kept


def test_a_transaction_that_begins_forgets_the_one_before(state: ConnectionState) -> None:
    state.wrote()
    state.commit_sent(is_open=True)
    state.failed(in_transaction=True)

    state.began(BEGIN)

    assert state == ConnectionState(begun_with=BEGIN)


@pytest.mark.parametrize("wrote", [True, False])
@pytest.mark.parametrize("is_open", [True, False])
def test_a_commit_is_uncertain_if_it_was_sent_after_a_write(state: ConnectionState, wrote: bool, is_open: bool) -> None:
    if wrote:
        state.wrote()

    state.commit_sent(is_open=is_open)

    assert state.is_commit_sent is (wrote and is_open)


def test_an_error_aborts_a_transaction_until_it_is_rolled_back(state: ConnectionState) -> None:
    state.failed(in_transaction=True)
    assert state.is_aborted

    state.rolled_back()
    assert not state.is_aborted


def test_an_error_outside_of_a_transaction_aborts_nothing(state: ConnectionState) -> None:
    state.failed(in_transaction=False)

    assert not state.is_aborted


def test_a_transaction_is_begun_again_if_it_was_aborted_or_has_ended(state: ConnectionState) -> None:
    state.began(BEGIN)
    assert not state.has_lost_its_transaction(in_transaction=True)
    assert state.has_lost_its_transaction(in_transaction=False)

    state.failed(in_transaction=True)
    assert state.has_lost_its_transaction(in_transaction=True)


def test_a_transaction_with_a_savepoint_is_not_begun_again(state: ConnectionState) -> None:
    state.began(BEGIN)

    state.set_savepoint()
    state.failed(in_transaction=True)

    assert not state.has_lost_its_transaction(in_transaction=True)


def test_a_transaction_that_may_write_is_not_begun_again(state: ConnectionState) -> None:
    state.began()
    state.failed(in_transaction=True)

    assert not state.has_lost_its_transaction(in_transaction=True)
