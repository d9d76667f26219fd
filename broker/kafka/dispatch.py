"""From a frame to a response: header, version, handler, and what becomes of errors."""

from __future__ import annotations

import logging
import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from seawall.broker.errors import BrokerError
from seawall.broker.kafka import api_versions, codes
from seawall.broker.kafka.api import Api, RequestContext
from seawall.broker.kafka.schema import Schema, Undecodable, schema
from seawall.broker.kafka.shape import Malformed, TooManyItems

logger = logging.getLogger("seawall.kafka")

# What an item of a request takes in memory with what it is answered, and what a request takes in
# any case: estimates, above what was seen (half of that for a topic).
ITEM_BYTES: Final = 1_024
REQUEST_BYTES: Final = 4_096

_START: Final = struct.Struct(">hhi")


class Rejected(Exception):
    """A request that cannot be answered; its connection is closed."""


class Call(NamedTuple):
    """A request whose header was understood."""

    api: Api
    version: int
    correlation_id: int
    client_id: str | None
    schema: Schema
    frame: bytes
    body_at: int

    def memory_bytes(self, most_items: int) -> int:
        """What it takes at the most, besides its frame, once it is parsed and answered.

        To be asked before it is parsed: raises `Rejected` if it claims items that it cannot
        have, or has more than `most_items`.
        """
        try:
            items = self.schema.shape.items(self.frame, self.body_at, most_items)
        except Malformed:
            raise Rejected(f"{self.api.name} version {self.version} does not parse") from None
        except TooManyItems:
            raise Rejected(
                f"{self.api.name} with more items than request.max.items allows: {most_items}"
            ) from None
        return REQUEST_BYTES + items * ITEM_BYTES


def parse(frame: bytes, apis: Mapping[int, Api]) -> Call | bytes:
    """The call that a frame asks for, or the response to one that only needs telling.

    Raises `Rejected`.
    """
    key, version, correlation_id = _START.unpack_from(frame)
    api = apis.get(key)
    if api is None:
        raise Rejected(f"API key {key} is not known")
    low, high = api.versions
    if not low <= version <= high:
        if key == api_versions.KEY:
            told = api_versions.answer(apis, codes.UNSUPPORTED_VERSION)
            return schema(key, 0).encode(correlation_id, told)
        raise Rejected(f"{api.name} version {version} is not answered, only {low} to {high}")
    known = schema(key, version)
    try:
        header, frame, body_at = known.header(frame)
    except Undecodable as error:
        raise Rejected(f"the header of {api.name} does not parse: {error}") from None
    return Call(api, version, correlation_id, header.client_id, known, frame, body_at)


async def answer(call: Call, context: RequestContext) -> bytes | None:
    """The response frame of a call, None if there is none to send. Raises `Rejected`."""
    api = call.api
    try:
        request = call.schema.decode(call.frame, call.body_at)
    except Undecodable as error:
        raise Rejected(f"{api.name} version {call.version} does not parse: {error}") from None
    try:
        answered = await api.handle(request, context)
        if answered is None:
            return None
        if api.is_long:
            return await context.run(call.schema.encode, call.correlation_id, answered)
        return call.schema.encode(call.correlation_id, answered)
    except Rejected:
        raise
    except Exception as error:  # noqa: BLE001 - a bug in a handler costs its request alone
        return _refused(call, request, error)


def _refused(call: Call, request: Any, error: Exception) -> bytes:
    """The response that tells of an error. Raises `Rejected` if there is no way to tell."""
    code = (codes.group_code_of if call.api.is_of_coordinator else codes.code_of)(error)
    message = str(error)
    if not isinstance(error, BrokerError | codes.KafkaError):
        logger.error("%s version %d failed", call.api.name, call.version, exc_info=error)
        message = "unexpected error; the server's log says more"
    try:
        if call.api.refuse is not None:
            refused: Any = call.api.refuse(request, code, message)
        else:
            refused = call.schema.error_answer(code)
        if refused is not None:
            return call.schema.encode(call.correlation_id, refused)
    except Exception as second_error:
        logger.error("%s cannot say what went wrong", call.api.name, exc_info=second_error)
    raise Rejected(f"{call.api.name} failed: {message}")
