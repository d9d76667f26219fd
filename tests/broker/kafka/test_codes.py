from __future__ import annotations

import inspect

import pytest
from kio.schema.errors import ErrorCode

from seawall.broker import errors
from seawall.broker.errors import BrokerError
from seawall.broker.kafka import codes
from seawall.broker.kafka.codes import KafkaError, code_of

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, BrokerError) and (kind in codes.TABLE or not kind.__subclasses__())
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_of_the_broker_has_a_code(kind: type[BrokerError]) -> None:
    assert any(each in codes.TABLE for each in kind.__mro__), "a row is missing"
    error = kind.__new__(kind)
    assert code_of(error) == next(codes.TABLE[k] for k in kind.__mro__ if k in codes.TABLE)


def test_the_nearest_kind_counts() -> None:
    error = errors.BatchTooLarge(size_bytes=2, max_bytes=1)
    assert code_of(error) == codes.RECORD_LIST_TOO_LARGE
    assert code_of(errors.RecordTooLarge(size_bytes=2, max_bytes=1)) == codes.MESSAGE_TOO_LARGE


def test_a_bug_is_an_unknown_error() -> None:
    assert code_of(ValueError("x")) == codes.UNKNOWN_SERVER_ERROR
    assert code_of(KafkaError(7, "x")) == 7


def test_the_numbers_are_kafkas() -> None:
    named = {name: value for name, value in vars(codes).items() if isinstance(value, int)}
    assert len(named) > 20
    for name, value in named.items():
        assert ErrorCode(value).name == name.lower()
