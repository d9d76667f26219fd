"""Kafka's messages: bytes <-> values, by the library kio, one schema at a time.

kio has a class for each message and version, in a module of its own. They are imported when
the first request of that kind and version arrives, so that a server starts at once.

A handler need not know which fields which version has: it answers with a dict of all that
it knows, nested as the message is, and `Schema.encode` takes what the version has. Durations
and times are plain milliseconds there, error codes plain numbers, arrays any sequence.
"""

from __future__ import annotations

import datetime
import io
import struct
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, NamedTuple

from seawall.broker.kafka.kio_messages import (
    ErrorCode,
    entity_reader,
    entity_writer,
    load_request_schema,
    load_response_schema,
)
from seawall.broker.kafka.shape import Shape, nested_in

Values = Mapping[str, Any]
_CORRELATION: typing.Final = struct.Struct(">i")
_EMPTY_TAGS = b"\0"
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_API_VERSIONS = 18


class Undecodable(Exception):
    """Bytes that are not the message that they should be."""


class Schema(NamedTuple):
    """How the requests and responses of one API look in one version."""

    read_header: Callable[[bytes, int], tuple[Any, int]]
    read_request: Callable[[bytes, int], tuple[Any, int]]
    write_response: Callable[[Any, Any], None]
    build: Callable[[Values], Any]
    response: Any
    header_shape: Shape
    shape: Shape
    has_response_tags: bool

    def header(self, frame: bytes) -> tuple[Any, bytes, int]:
        """The header of a request, the frame to go on with, and where the body begins in it.

        Raises `Undecodable`.
        """
        try:
            return _whole(self.read_header, self.header_shape, frame, 0)
        except Exception as error:  # noqa: BLE001 - kio raises many kinds, without a root
            raise Undecodable(f"{type(error).__name__}: {error}") from None

    def decode(self, frame: bytes, position: int) -> Any:
        """The request whose body begins at `position`, or `Undecodable`.

        Bytes behind it are not looked at, as in Kafka: librdkafka sends three too many with
        its request for the metadata of all topics.
        """
        try:
            request, _, _ = _whole(self.read_request, self.shape, frame, position)
        except Exception as error:  # noqa: BLE001 - kio raises many kinds, without a root
            raise Undecodable(f"{type(error).__name__}: {error}") from None
        return request

    def encode(self, correlation_id: int, answer: Any) -> bytes:
        """A whole response frame. `answer` is a dict, or the version's own kio entity."""
        if isinstance(answer, Mapping):
            answer = self.build(answer)
        buffer = io.BytesIO()
        buffer.write(b"\0\0\0\0")
        buffer.write(_CORRELATION.pack(correlation_id))
        if self.has_response_tags:
            buffer.write(_EMPTY_TAGS)
        self.write_response(buffer, answer)
        with buffer.getbuffer() as view:
            _CORRELATION.pack_into(view, 0, len(view) - 4)
        return buffer.getvalue()

    def error_answer(self, code: int) -> Any:
        """An otherwise empty response with this error, None if the message has no place for one.

        For errors of the server itself; an API says what is wrong in its own way.
        """
        names = {each.name for each in fields(self.response)}
        return self.build(_Blank(error_code=code)) if "error_code" in names else None


def _whole(
    read: Callable[[bytes, int], tuple[Any, int]], shape: Shape, frame: bytes, position: int
) -> tuple[Any, bytes, int]:
    """A message, the frame that it is in, and where it ends there.

    kio refuses tagged fields that it does not know, which are to be passed over (KIP-482): then
    it is the frame without them.
    """
    try:
        message, end = read(frame, position)
    except Exception:
        known = shape.without_unknown_tags(frame, position)
        if known is None:
            raise
        frame = known
        message, end = read(frame, position)
    return message, frame, end


class _Blank(dict[str, Any]):
    """Values for a message about which nothing is known: every field is empty."""


@cache
def schema(api_key: int, version: int) -> Schema:
    """The schema of an API in one version; imports it when it is first asked for."""
    request = load_request_schema(api_key, version)
    response = load_response_schema(api_key, version)
    return Schema(
        read_header=entity_reader(request.__header_schema__),
        read_request=entity_reader(request),
        write_response=entity_writer(response),
        build=builder(response),
        response=response,
        header_shape=Shape(request.__header_schema__),
        shape=Shape(request),
        # The response to ApiVersions has the old header in all versions (KIP-511): who asks
        # does not know yet what is understood here.
        has_response_tags=response.__flexible__ and api_key != _API_VERSIONS,
    )


@cache
def builder(kind: Any) -> Callable[[Values], Any]:
    """What makes a kio entity of one kind from a dict. Fields that the kind lacks are left out.

    A field without a default that is not given is a KeyError: the handler forgot it.
    """
    plan: list[tuple[str, Callable[[Any], Any], bool, Any]] = []
    for each in fields(kind):
        has_default = each.default is not MISSING
        plan.append((each.name, _converter(each.type, each.metadata), has_default, _blank(each)))

    def build(values: Values) -> Any:
        known: dict[str, Any] = {}
        for name, convert, has_default, blank in plan:
            if name in values:
                known[name] = convert(values[name])
            elif not has_default:
                if name != "throttle_time" and not isinstance(values, _Blank):
                    raise KeyError(f"{kind.__qualname__}.{name}")
                known[name] = blank
        return kind(**known)

    return build


def _same(value: Any) -> Any:
    return value


def _converter(hint: Any, metadata: Mapping[str, Any]) -> Callable[[Any], Any]:
    """What turns a handler's value into what kio's entity holds."""
    nested, is_array = nested_in(hint)
    if nested is not None:
        build = builder(nested)

        def one(value: Any) -> Any:
            return build(value) if isinstance(value, Mapping) else value

        def many(values: Sequence[Any] | None) -> Any:
            return None if values is None else tuple(map(one, values))

        return many if is_array else one
    if is_array:
        return lambda values: None if values is None else tuple(values)
    return _CONVERTERS.get(metadata.get("kafka_type", ""), _same)


def _duration(value: Any) -> Any:
    return datetime.timedelta(milliseconds=value) if isinstance(value, int) else value


def _time(value: Any) -> Any:
    """Kafka's -1 is kio's None."""
    if isinstance(value, int):
        return None if value < 0 else _EPOCH + datetime.timedelta(milliseconds=value)
    return value


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "timedelta_i32": _duration,
    "timedelta_i64": _duration,
    "datetime_i64": _time,
    "error_code": ErrorCode,
}
_BLANKS: dict[str, Any] = {
    "string": "",
    "bytes": b"",
    "records": None,
    "uuid": None,
    "bool": False,
    "float64": 0.0,
    "datetime_i64": None,
    "timedelta_i32": datetime.timedelta(0),
    "timedelta_i64": datetime.timedelta(0),
    "error_code": ErrorCode.none,
}


def _blank(each: Any) -> Any:
    nested, is_array = nested_in(each.type)
    if is_array:
        return ()
    if nested is not None:
        return builder(nested)(_Blank())
    return _BLANKS.get(each.metadata.get("kafka_type", ""), 0)


def milliseconds(value: Any) -> int:
    """kio's durations as a whole number of ms."""
    whole: int = value // datetime.timedelta(milliseconds=1)
    return whole
