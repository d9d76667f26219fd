from __future__ import annotations

import json
import logging

import pytest

from seawall.cli.logs import LineFormatter, log_to_stderr


def record(message: str, *args: object, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, None) if error else None
    return logging.LogRecord("seawall.kafka", logging.WARNING, "x.py", 1, message, args, info)


@pytest.mark.parametrize(
    ("message", "shown"),
    [("word", "word"), ("two words", '"two words"'), ("", '""'), ('a"b', '"a\\"b"')],
)
def test_text(message: str, shown: str) -> None:
    line = LineFormatter("text").format(record(message))
    assert line.endswith(f" level=warning logger=seawall.kafka message={shown}")


def test_whatever_is_in_it_is_one_line() -> None:
    nasty = record("a\nb\x1b[2J %s", "é", error=ValueError("x"))
    for log_format in ("text", "json"):
        line = LineFormatter(log_format).format(nasty)
        assert len(line.splitlines()) == 1
        assert line.isprintable()
    fields = json.loads(LineFormatter("json").format(nasty))
    assert fields["message"] == "a\nb\x1b[2J é"
    assert "ValueError: x" in fields["exception"]


def test_logging_is_as_before_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("seawall")
    before = (logger.handlers, logger.level, logger.propagate)
    with log_to_stderr("text"):
        logging.getLogger("seawall.kafka").info("hello there")
    assert (logger.handlers, logger.level, logger.propagate) == before
    assert 'message="hello there"' in capsys.readouterr().err
