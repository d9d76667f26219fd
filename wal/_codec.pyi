# The compiled core has the same functions as its source.
from seawall.wal.codec import decode_records as decode_records
from seawall.wal.codec import encode_records as encode_records
