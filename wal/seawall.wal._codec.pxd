# C types for the compiled core: Cython reads them when it compiles codec.py as the module
# that this file is named after. They change nothing but speed: every number here fits in
# 64 bits (codec.py says why). Only the functions declared cpdef can be imported.

import cython

@cython.locals(
    base_timestamp="long long",
    max_timestamp="long long",
    timestamp="long long",
    delta="long long",
    offset_delta="long long",
    number="long long",
    size="long long",
    key_number="long long",
    value_number="long long",
)
cpdef long long encode_records(bytearray out, records) except? -1

cdef long long _more_bytes(long long number)

cdef int _put_varint(bytearray out, long long number) except -1

@cython.locals(out=bytearray, name=bytes)
cdef bytearray _encode_headers(headers)

@cython.locals(
    number="long long",
    more="long long",
    record_end=Py_ssize_t,
    start=Py_ssize_t,
    timestamp="long long",
    offset_delta="long long",
    previous_delta="long long",
    records=list,
)
cpdef list decode_records(
    bytes buffer,
    Py_ssize_t position,
    Py_ssize_t end,
    Py_ssize_t count,
    object topic,
    object partition,
    long long base_offset,
    long long last_offset_delta,
    long long base_timestamp,
    type record_type,
)

@cython.locals(
    number="long long",
    begin=Py_ssize_t,
    record_end=Py_ssize_t,
    rest=Py_ssize_t,
    start=Py_ssize_t,
    timestamp_delta="long long",
    offset_delta="long long",
    previous_delta="long long",
    spans=list,
)
cpdef list record_spans(
    bytes buffer,
    Py_ssize_t position,
    Py_ssize_t end,
    Py_ssize_t count,
    long long last_offset_delta,
)

@cython.locals(number="long long", body=bytearray, out=bytearray)
cpdef bytearray with_timestamp_delta(bytes buffer, Py_ssize_t rest, Py_ssize_t end, long long delta)

@cython.locals(number="long long", byte="long long", shift="int")
cdef (long long, Py_ssize_t) _decode_varint(bytes buffer, Py_ssize_t position)

@cython.locals(number="long long", start=Py_ssize_t, headers=list)
cdef tuple _decode_headers(bytes buffer, Py_ssize_t position, Py_ssize_t end)
