"""The msgpack of v3, beside the public msgpack package."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helperd.wire import mpack
from helperd.wire.mpack import MAX_VALUES, Fields, Malformed, Text, pack, unpack

ints = st.integers(-(1 << 63), (1 << 64) - 1)
plain = st.recursive(
    st.booleans() | ints | st.floats(allow_nan=False) | st.text(max_size=40) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 300), inner, max_size=4),
    max_leaves=12,
)
payloads = st.dictionaries(st.integers(0, 300), plain, max_size=6)


def python(value):
    """A value we read, as msgpack would give it."""
    match value:
        case Fields():
            return {key: python(inner) for key, inner in value.pairs}
        case list():
            return [python(inner) for inner in value]
        case Text():
            return value.decode()
        case _:
            return value


def nesting(value):
    if isinstance(value, dict):
        return 1 + max(map(nesting, value.values()), default=0)
    return 1 + max(map(nesting, value), default=0) if isinstance(value, list) else 0


@given(payloads)
def test_we_write_what_msgpack_reads(value):
    assert msgpack.unpackb(pack(value), strict_map_key=False) == value
    assert pack(value) == msgpack.packb(value)


@given(payloads)
def test_we_read_what_msgpack_writes(value):
    if nesting(value) > 8:
        with pytest.raises(Malformed):
            unpack(msgpack.packb(value))
    else:
        assert python(unpack(msgpack.packb(value))) == value


@pytest.mark.parametrize("size", [0, 31, 32, 255, 256, 65535, 65536])
def test_lengths_of_every_width(size):
    value = {
        1: "x" * size,
        2: b"y" * size,
        3: [1] * min(size, 2000),
        4: dict.fromkeys(range(min(size, 2000)), 0),
    }
    raw = pack(value)
    assert raw == msgpack.packb(value)
    assert python(unpack(raw)) == value


@given(st.binary(max_size=60))
def test_any_bytes_are_a_map_or_malformed(raw):
    try:
        assert isinstance(unpack(raw), Fields)
    except Malformed as error:
        text = str(error)
    else:
        return
    assert text


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x01",
        b"\x81\x01",
        b"\x81\x01\xc1",
        b"\x81\x01\xc7\x00\x01",
        b"\x81\x01\xd4\x01\x01",
        b"\xdf\xff\xff\xff\xff",
        b"\x81\x01\xdd\xff\xff\xff\xff",
        b"\x81\x01\xc6\xff\xff\xff\xff",
        b"\x81\x01" * 9 + b"\x80",
        b"\x81\x01\xdc\x30\x00" + bytes(0x3000),
    ],
)
def test_what_is_cut_too_deep_too_many_or_an_extension_is_malformed(raw):
    with pytest.raises(Malformed):
        unpack(raw)
    assert MAX_VALUES == 8192


def test_readers_are_strict():
    fields = unpack(
        pack({1: 5, 2: -1, 3: 1.5, 4: True, 5: "t", 6: b"b", 7: ["a"], 8: {1: 2}, 9: [{}], 10: 1 << 32})
    )
    assert fields.required_uint(1) == 5
    assert fields.real(1) == 5.0
    assert fields.text(6) == "b"
    assert fields.blob(5) == b"t"
    assert fields.texts(7) == ("a",)
    assert len(fields.maps(9)) == 1
    for call in (
        lambda: fields.uint(2),
        lambda: fields.uint(3),
        lambda: fields.uint(4),
        lambda: fields.real(4),
        lambda: fields.real(5),
        lambda: fields.flag(1),
        lambda: fields.text(1),
        lambda: fields.blob(1),
        lambda: fields.binary(5),
        lambda: fields.fields(7),
        lambda: fields.texts(8),
        lambda: fields.texts(9),
        lambda: fields.maps(7),
        lambda: fields.signed32(10),
        lambda: fields.pairs_of_text(8),
        lambda: fields.required_uint(99),
        lambda: fields.required_text(99),
    ):
        with pytest.raises(Malformed):
            call()


def test_absent_fields_are_absent():
    fields = unpack(b"\x80")
    assert (fields.uint(1), fields.optional_uint(1), fields.real(1), fields.flag(1)) == (0, None, None, None)
    assert (fields.text(1), fields.blob(1), fields.binary(1), fields.fields(1)) == ("", None, None, None)
    assert (fields.texts(1), fields.maps(1), fields.pairs_of_text(1), fields.signed32(1)) == (
        (),
        (),
        (),
        None,
    )


def test_nil_is_an_error_for_every_field():
    with pytest.raises(Malformed):
        unpack(b"\x81\x01\xc0").uint(1)
    with pytest.raises(Malformed):
        unpack(b"\x81\x01\xc0").text(1)


def test_keys_that_are_no_integers_and_no_text_are_skipped():
    assert unpack(b"\x83\xc4\x01a\x05\xc3\x06\x01\x07").values == {1: 7}


def test_what_msgpack_has_not_is_our_own_mistake():
    with pytest.raises(OverflowError):
        mpack._head(1 << 32, 0x80, 15, {2: 0xDE, 4: 0xDF})
    with pytest.raises(TypeError):
        pack({1: None})
    with pytest.raises(OverflowError):
        pack({1: 1 << 64})
