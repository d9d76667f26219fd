"""The format of consume -f: what each escape prints, and which there are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.cli.formats import FormatInvalid, compile_format
from seawall.wal.records import Record

PLAIN = Record("orders", 3, 17, 1234, b"k1", b"va", (("a", b"1"), ("a", None), ("\udcff", b"2")))
NULLS = Record("orders", 0, 0, -1, None, None, ())


@pytest.mark.parametrize(
    ("text", "plain", "nulls"),
    [
        ("%t", b"orders", b"orders"),
        ("%p", b"3", b"0"),
        ("%o", b"17", b"0"),
        ("%T", b"1234", b"-1"),
        ("%k", b"k1", b""),
        ("%K", b"2", b"-1"),
        ("%s", b"va", b""),
        ("%S", b"2", b"-1"),
        ("%R", b"\0\0\0\2", b"\xff\xff\xff\xff"),
        ("%h", b"a=1,a=,\xff=2", b""),
        ("%%s", b"%s", b"%s"),
        ("", b"", b""),
        ("x", b"x", b"x"),
        (r"\n\r\t\0\\", b"\n\r\t\0\\", b"\n\r\t\0\\"),
        (r"\x41\xfF\x0g", b"A\xff\0g", b"A\xff\0g"),
        ("ü\udcff", b"\xc3\xbc\xff", b"\xc3\xbc\xff"),
        (r"%t/%p %k=%s\n", b"orders/3 k1=va\n", b"orders/0 =\n"),
    ],
)
def test_escapes(text: str, plain: bytes, nulls: bytes) -> None:
    show = compile_format(text)
    assert show(PLAIN) == plain
    assert show(NULLS) == nulls


def test_null_by_name() -> None:
    show = compile_format("%k %s %h", null=b"NULL")
    assert show(NULLS) == b"NULL NULL "
    assert show(PLAIN) == b"k1 va a=1,a=NULL,\xff=2"


@pytest.mark.parametrize("text", ["%", "%x", "%é", "a%", "\\", "\\q", "\\x", "\\xg", "%\n"])
def test_no_such_escape(text: str) -> None:
    with pytest.raises(FormatInvalid, match="known are") as caught:
        compile_format(text)
    assert "\n" not in str(caught.value)


@given(st.text(alphabet="%\\xnrt0ab stkKSRhpoT\n"))
def test_any_text_is_a_format_or_refused(text: str) -> None:
    try:
        show = compile_format(text)
    except FormatInvalid:
        return
    assert isinstance(show(PLAIN), bytes)
