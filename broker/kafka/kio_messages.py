"""kio, imported without hypothesis.

Where hypothesis is installed, kio registers strategies for its types with it while it is
imported, which takes half as long again as everything else that the server imports. Nothing
here needs them, so hypothesis is hidden from kio meanwhile.
"""

from __future__ import annotations

import sys
from typing import Final

_HIDDEN: Final = ("hypothesis", "hypothesis.strategies")

_before = {name: sys.modules.get(name) for name in _HIDDEN}
for _name in _HIDDEN:
    sys.modules[_name] = None  # type: ignore[assignment]
try:
    from kio.index import load_request_schema, load_response_schema
    from kio.schema.errors import ErrorCode
    from kio.serial import entity_reader, entity_writer
finally:
    for _name, _module in _before.items():
        if _module is None:
            del sys.modules[_name]
        else:
            sys.modules[_name] = _module

__all__ = [
    "ErrorCode",
    "entity_reader",
    "entity_writer",
    "load_request_schema",
    "load_response_schema",
]
