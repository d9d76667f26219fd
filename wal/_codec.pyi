# The compiled core has the same functions as its source.
from seawall.wal.codec import decode_records as decode_records
from seawall.wal.codec import encode_records as encode_records
from seawall.wal.codec import record_spans as record_spans
from seawall.wal.codec import with_timestamp_delta as with_timestamp_delta
