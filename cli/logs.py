"""Logs on stderr, one line each: ``key=value`` pairs, or JSON."""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator

LOG_FORMATS = ("text", "json")


class LineFormatter(logging.Formatter):
    """A log record as one line, whatever is in it."""

    def __init__(self, log_format: str) -> None:
        super().__init__()
        self._is_json = log_format == "json"

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        if self._is_json:
            return json.dumps(fields)
        return " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())


def _quoted(value: str) -> str:
    """As it is, or as JSON's text if it would not stay one word."""
    is_word = value.isascii() and value.isprintable() and not set(value) & set(' "=')
    return value if value and is_word else json.dumps(value)


@contextlib.contextmanager
def log_to_stderr(log_format: str) -> Iterator[None]:
    """Send what seawall logs to stderr, and nowhere else, for as long as it takes."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(log_format))
    logger = logging.getLogger("seawall")
    before = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers, level, logger.propagate = before
        logger.setLevel(level)
