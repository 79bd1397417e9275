"""Small captures, one for each odd feature of pcap and pcapng: written here, byte by byte. Pure.

Source of facts: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng, pcap-savefile(5).
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from itertools import pairwise

SECOND = 1_700_000_000
MICRO, NANO, MODIFIED = 0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34
ETHERNET, RADIOTAP, USB, USER0 = 1, 127, 249, 147
FRAME = bytes(range(60))


# pcap


def header(
    order: str = "<",
    magic: int = MICRO,
    *,
    version: tuple[int, int] = (2, 4),
    zone: int = 0,
    sigfigs: int = 0,
    snaplen: int = 65535,
    linktype: int = ETHERNET,
) -> bytes:
    return struct.pack(order + "IHHiIII", magic, *version, zone, sigfigs, snaplen, linktype)


def record(
    order: str = "<",
    seconds: int = SECOND,
    fraction: int = 5,
    data: bytes = FRAME,
    *,
    captured: int | None = None,
    original: int | None = None,
    gap: int = 0,
) -> bytes:
    size = len(data)
    fields = (size if captured is None else captured, size if original is None else original)
    return struct.pack(order + "4I", seconds, fraction, *fields) + bytes(gap) + data


def pcap(*records: bytes, order: str = "<", magic: int = MICRO, **fields: object) -> bytes:
    return header(order, magic, **fields) + b"".join(records or (record(order), record(order, SECOND + 1)))  # type: ignore[arg-type]


# pcapng


def block(kind: int, body: bytes = b"", order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + length + body + length


def option(code: int, value: bytes = b"", order: str = "<") -> bytes:
    return struct.pack(order + "2H", code, len(value)) + value + bytes(-len(value) % 4)


def section(
    options: bytes = b"", order: str = "<", *, version: tuple[int, int] = (1, 0), length: int = -1
) -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, *version, length) + options, order)


def interface(options: bytes = b"", order: str = "<", *, linktype: int = ETHERNET, snaplen: int = 0) -> bytes:
    return block(1, struct.pack(order + "2HI", linktype, 0, snaplen) + options, order)


def resolution(value: int, order: str = "<") -> bytes:
    return option(9, bytes([value]), order)


def offset(seconds: int, order: str = "<") -> bytes:
    return option(14, struct.pack(order + "q", seconds), order)


def packet(
    units: int = SECOND * 10**6,
    data: bytes = FRAME,
    options: bytes = b"",
    order: str = "<",
    *,
    number: int = 0,
    captured: int | None = None,
    original: int | None = None,
) -> bytes:
    size = len(data)
    fields = (size if captured is None else captured, size if original is None else original)
    body = struct.pack(order + "5I", number, units >> 32, units & 0xFFFFFFFF, *fields)
    return block(6, body + data + bytes(-size % 4) + options, order)


def simple(data: bytes = FRAME, original: int | None = None, order: str = "<") -> bytes:
    return block(3, struct.pack(order + "I", len(data) if original is None else original) + data, order)


def obsolete(
    units: int = SECOND * 10**6,
    drops: int = 0xFFFF,
    order: str = "<",
    *,
    number: int = 0,
    options: bytes = b"",
) -> bytes:
    body = struct.pack(order + "2H4I", number, drops, units >> 32, units & 0xFFFFFFFF, len(FRAME), len(FRAME))
    return block(2, body + FRAME + options, order)


def statistics(order: str = "<", number: int = 0) -> bytes:
    units = SECOND * 10**6
    body = struct.pack(order + "3I", number, units >> 32, units & 0xFFFFFFFF)
    return block(5, body + option(4, struct.pack(order + "Q", 3), order) + option(0, b"", order), order)


NAMES = block(4, struct.pack("<2H", 1, 8) + b"\x7f\0\0\1abc\0" + bytes(4))
SECRETS = block(10, struct.pack("<2I", 0x544C534B, 8) + b"CLIENT_R")
JOURNAL = block(9, b"__REALTIME_TIMESTAMP=1\nMESSAGE=hi\n")
CUSTOM = block(0xBAD, struct.pack("<I", 32473) + b"whatever")
CUSTOM_KEPT = block(0x40000BAD, struct.pack("<I", 32473) + b"whatever")
UNKNOWN = block(0x7777, b"nobody knows")
END = option(0)
BEGIN = section() + interface()
GOOD = packet(SECOND * 10**6 + 7)


def captures() -> Iterator[tuple[str, bytes]]:
    """Names and files."""
    yield from _pcap()
    yield from _pcap_records()
    yield from _pcap_cuts()
    yield from _sections()
    yield from _interfaces()
    yield from _stamps()
    yield from _blocks()
    yield from _options()
    yield from _pcapng_cuts()


def _pcap() -> Iterator[tuple[str, bytes]]:
    for word, order in (("le", "<"), ("be", ">")):
        yield f"pcap-micro-{word}", pcap(order=order)
        yield f"pcap-nano-{word}", pcap(order=order, magic=NANO)
        gapped = [record(order, SECOND + more, gap=8) for more in range(3)]
        yield f"pcap-modified-{word}", pcap(*gapped, order=order, magic=MODIFIED)
        yield f"pcap-aix-{word}", pcap(order=order, version=(2, 2), linktype=6)
    for version in ((2, 0), (2, 2), (543, 0)):
        yield (
            f"pcap-version-{version[0]}-{version[1]}",
            pcap(record(captured=70, original=60), version=version),
        )
    yield "pcap-version-2-3-old", pcap(record(captured=70, original=60), version=(2, 3))
    yield "pcap-version-2-3-new", pcap(record(original=70), version=(2, 3))
    for version in ((2, 5), (3, 0)):
        yield f"pcap-version-{version[0]}-{version[1]}", pcap(version=version)
    yield "pcap-version-1-0", pcap(version=(1, 0))
    yield "pcap-zone", pcap(zone=-3600)
    yield "pcap-sigfigs", pcap(sigfigs=6)
    for snaplen in (0, 1, 40, 262_144, 128 << 20, (128 << 20) + 1, 0x7FFFFFFF, 0xFFFFFFFF):
        yield f"pcap-snaplen-{snaplen:x}", pcap(snaplen=snaplen)
    for linktype in (0, 6, 12, 100, 101, 105, RADIOTAP, USER0, 162, 187, 276, 0x44000001, 0xFFFF):
        yield f"pcap-linktype-{linktype:x}", pcap(linktype=linktype)


def _pcap_records() -> Iterator[tuple[str, bytes]]:
    for seconds in (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        yield f"pcap-second-{seconds:x}", pcap(record(seconds=seconds), record())
    for fraction in (0, 1, 999_999, 1_000_000, 1_500_000, 0xFFFFFFFF):
        yield f"pcap-micros-{fraction}", pcap(record(fraction=fraction), record())
    for fraction in (1, 999_999_999, 1_000_000_000, 0xFFFFFFFF):
        yield f"pcap-nanos-{fraction}", pcap(record(fraction=fraction), record(), magic=NANO)
    yield "pcap-backwards", pcap(*[record(seconds=SECOND - number) for number in range(3)])
    yield "pcap-at-once", pcap(*[record()] * 3)
    for size in (0, 1, 2, 4):
        yield f"pcap-size-{size}", pcap(record(data=FRAME[:size]), record())
    for size in (65_535, 65_536, 262_144):
        yield f"pcap-size-{size}", pcap(record(data=bytes(size)), record(), snaplen=size)
    yield "pcap-too-long", pcap(record(data=bytes(262_145)), record(), snaplen=262_145)
    yield "pcap-usb-too-long", pcap(record(data=bytes(300_000)), record(), linktype=USB, snaplen=300_000)
    for original in (0, 10, 61, 0xFFFFFFFF):
        yield f"pcap-original-{original:x}", pcap(record(original=original), record())


def _pcap_cuts() -> Iterator[tuple[str, bytes]]:
    whole = pcap()
    at = [0, 24, 40, 100, 116, 176]  # file, head, data, head, data, end
    assert at[-1] == len(whole)
    for cut in sorted({*at[1:-1], 1, 4, 23, 25, 41, 99, 175}):
        yield f"pcap-cut-at-{cut}", whole[:cut]
    yield "pcap-empty", b""
    yield "pcap-zeros-behind", whole + bytes(16)
    yield "pcap-junk-behind", whole + b"\xff" * 100
    packed = gzip.compress(whole, mtime=0)
    yield "pcap-gzip", packed
    yield "pcap-gzip-zeros-behind", packed + bytes(512)
    yield "pcap-gzip-junk-behind", packed + b"not gzip at all"
    yield "pcap-gzip-checksum-wrong", packed[:-8] + b"\0\0\0\0" + packed[-4:]
    yield "pcap-gzip-length-wrong", packed[:-4] + b"\0\0\0\0"
    yield "pcap-gzip-twice", gzip.compress(whole[:50], mtime=0) + gzip.compress(whole[50:], mtime=0)
    yield (
        "pcap-gzip-cut",
        gzip.compress(pcap(*[record(data=bytes([n] * 999)) for n in range(99)]), mtime=0)[:-40],
    )


def _sections() -> Iterator[tuple[str, bytes]]:
    for word, order in (("le", "<"), ("be", ">")):
        yield f"ng-{word}", section(b"", order) + interface(b"", order) + packet(order=order)
    turned = (
        section(b"", ">")
        + interface(resolution(9, ">"), ">", linktype=RADIOTAP)
        + packet(SECOND * 10**9, order=">")
    )
    yield "ng-turned", BEGIN + GOOD + turned
    yield "ng-turned-back", turned + BEGIN + GOOD
    yield "ng-three-sections", (BEGIN + GOOD) * 3
    yield "ng-section-alone", section()
    yield "ng-section-twice", section() + section()
    yield "ng-interface-alone", BEGIN
    yield "ng-section-without-interface", BEGIN + GOOD + section() + GOOD
    for word, length in (("right", len(interface() + GOOD)), ("wrong", 20), ("zero", 0), ("long", 1 << 40)):
        yield f"ng-section-length-{word}", section(length=length) + interface() + GOOD
    for version in ((1, 1), (1, 2), (2, 0)):
        yield f"ng-version-{version[0]}-{version[1]}", section(version=version) + interface() + GOOD
    texts = option(1, b"comment") + option(2, b"hardware") + option(3, b"system") + option(4, b"application")
    yield "ng-section-texts", section(texts + END) + interface() + GOOD
    yield "ng-section-texts-endless", section(texts) + interface() + GOOD
    custom = option(2988, struct.pack("<I", 32473) + b"x") + option(0x7777, b"?")
    yield "ng-section-odd-options", section(custom + END) + interface() + GOOD
    yield "ng-section-option-overrun", section(struct.pack("<2H", 1, 99) + b"abcd") + interface() + GOOD
    yield "ng-section-order-unknown", section()[:8] + b"abcd" + section()[12:] + interface() + GOOD


def _interfaces() -> Iterator[tuple[str, bytes]]:
    for snaplen in (0, 40, 0x7FFFFFFF, 0xFFFFFFFF):
        yield f"ng-snaplen-{snaplen:x}", section() + interface(snaplen=snaplen) + GOOD
    texts = option(1, b"comment") + option(2, b"eth0") + option(3, b"a description") + option(11, b"\0tcp")
    more = (
        option(12, b"system")
        + option(15, b"hardware")
        + option(8, struct.pack("<Q", 10**9))
        + option(13, b"\4")
    )
    addresses = option(4, bytes(8)) + option(5, bytes(17)) + option(6, bytes(6)) + option(7, bytes(8))
    yield "ng-interface-texts", section() + interface(texts + more + END) + GOOD
    yield "ng-interface-addresses", section() + interface(addresses + option(10, bytes(4)) + END) + GOOD
    yield "ng-interface-endless", section() + interface(texts) + GOOD
    yield (
        "ng-interface-odd-options",
        section() + interface(option(0x7777, b"?") + option(2988, bytes(5)) + END) + GOOD,
    )
    yield "ng-interface-option-overrun", section() + interface(struct.pack("<2H", 2, 99) + b"abcd") + GOOD
    yield "ng-interface-reserved", section() + block(1, struct.pack("<2HI", 1, 0xFFFF, 0)) + GOOD
    short = section() + block(1, b"\1\0\0\0") + interface()
    yield "ng-interface-too-short", short + packet(number=1) + packet(number=0) + packet(number=1)
    yield "ng-interface-late", BEGIN + GOOD + interface(linktype=RADIOTAP) + packet(number=1) + GOOD
    yield "ng-interface-unused", section() + interface(linktype=RADIOTAP) + interface() + packet(number=1)
    several = b"".join(interface(linktype=kind) for kind in (ETHERNET, RADIOTAP, USER0, 105, ETHERNET))
    yield "ng-interfaces", section() + several + b"".join(packet(number=n % 5) for n in range(10))
    kinds = [*range(1, 10), *range(99, 109)]
    many = b"".join(interface(linktype=kind) for kind in kinds)
    yield "ng-many-linktypes", section() + many + b"".join(packet(number=n) for n in range(len(kinds)))
    for linktype in (0, 12, 101, 113, 162, 276, 0xFFFF):
        yield f"ng-linktype-{linktype:x}", section() + interface(linktype=linktype) + GOOD
    yield "ng-interface-unknown", BEGIN + GOOD + packet(number=3) + GOOD
    yield "ng-no-interface", section() + GOOD


def _stamps() -> Iterator[tuple[str, bytes]]:
    for exponent in (0, 1, 3, 6, 7, 9, 10, 12, 15, 18, 19, 20, 127):
        units = (SECOND if exponent < 10 else 17 if exponent < 19 else 1) * 10 ** min(exponent, 19) + 3
        yield f"ng-resolution-10-{exponent}", section() + interface(resolution(exponent)) + packet(units)
    for exponent in (0, 1, 20, 30, 33, 63, 64, 127):
        units = ((SECOND if exponent < 33 else 1) << min(exponent, 63)) + (1 << min(exponent, 63) >> 1)
        yield (
            f"ng-resolution-2-{exponent}",
            section() + interface(resolution(0x80 | exponent)) + packet(units),
        )
    for value in (b"", b"\x09\0"):
        yield f"ng-resolution-of-{len(value)}-bytes", section() + interface(option(9, value) + END) + packet()
    yield "ng-resolution-twice", section() + interface(resolution(9) + resolution(6) + END) + packet()
    for word, seconds in (("ahead", 5), ("behind", -5), ("to-1970", -SECOND), ("long", 1 << 32)):
        yield f"ng-offset-{word}", section() + interface(offset(seconds) + END) + packet() + packet()
    yield "ng-offset-be", section(b"", ">") + interface(offset(5, ">"), ">") + packet(order=">")
    yield (
        "ng-offset-and-resolution",
        section() + interface(resolution(9) + offset(7) + END) + packet(SECOND * 10**9 + 1),
    )
    yield "ng-offset-of-4-bytes", section() + interface(option(14, bytes(4)) + END) + packet()
    yield (
        "ng-before-1970",
        section() + interface(offset(-SECOND - 10) + END) + packet() + packet((SECOND + 20) * 10**6),
    )
    yield "ng-offset-least", section() + interface(offset(-(1 << 63)) + END) + packet() + packet()
    yield "ng-offset-most", section() + interface(offset((1 << 63) - 1) + END) + packet() + packet()
    yield "ng-year-2107", BEGIN + packet(4_323_283_200_000_000) + GOOD
    nano = section() + interface(resolution(9) + END)
    for word, units in (("0", 0), ("1", 1), ("2-63", (1 << 63) + 5), ("2-64", (1 << 64) - 1)):
        yield f"ng-nanos-{word}", nano + packet(units) + packet(SECOND * 10**9)
    yield "ng-micros-2-64", BEGIN + packet((1 << 64) - 1) + GOOD
    yield "ng-seconds-2-63", section() + interface(resolution(0) + END) + packet(1 << 63) + packet(SECOND)
    yield "ng-backwards", BEGIN + packet(SECOND * 10**6) + packet((SECOND - 9) * 10**6)


def _blocks() -> Iterator[tuple[str, bytes]]:
    yield "ng-simple", section() + interface(snaplen=65535) + simple() + simple(FRAME[:7])
    yield "ng-simple-cut-by-snaplen", section() + interface(snaplen=5) + simple(FRAME[:5], 99)
    yield "ng-simple-no-interface", section() + simple()
    yield "ng-obsolete", BEGIN + obsolete() + obsolete(drops=7)
    yield "ng-obsolete-be", section(b"", ">") + interface(b"", ">") + obsolete(order=">")
    yield (
        "ng-obsolete-options",
        BEGIN + obsolete(options=option(1, b"comment") + option(2, b"\1\0\0\0") + END),
    )
    others = {
        "names": NAMES,
        "statistics": statistics(),
        "secrets": SECRETS,
        "journal": JOURNAL,
        "custom": CUSTOM,
        "custom-kept": CUSTOM_KEPT,
        "unknown": UNKNOWN,
        "unknown-empty": block(0x7777),
        "unknown-zero": block(0, b"abcd"),
        "unknown-high": block(0x80000001, b"abcd"),
        "process-event": block(0x204, bytes(20)),
    }
    for word, other in others.items():
        yield f"ng-{word}-between", BEGIN + GOOD + other + GOOD
    for word in ("names", "custom", "unknown"):
        yield f"ng-{word}-first", section() + others[word] + interface() + GOOD
    yield "ng-statistics-last", BEGIN + GOOD + statistics()
    del others["process-event"]  # Wireshark gives up at one that is too short
    yield "ng-all-kinds", BEGIN + b"".join(other + GOOD for other in others.values())
    yield "ng-statistics-be", section(b"", ">") + interface(b"", ">") + packet(order=">") + statistics(">")
    for size in (0, 1, 2, 4):
        yield f"ng-size-{size}", BEGIN + packet(data=FRAME[:size]) + GOOD
    for size in (65_535, 262_144):
        yield f"ng-size-{size}", BEGIN + packet(data=bytes(size)) + GOOD
    yield "ng-too-long", BEGIN + packet(data=bytes(262_145)) + GOOD
    yield "ng-usb-too-long", section() + interface(linktype=USB) + packet(data=bytes(300_000)) + GOOD
    for original in (0, 10, 0xFFFFFFFF):
        yield f"ng-original-{original:x}", BEGIN + packet(original=original) + GOOD
    unpadded = struct.pack("<2I5I", 6, 93, 0, 0, 5, 61, 61) + bytes(64) + struct.pack("<I", 93)
    yield "ng-length-without-padding", BEGIN + unpadded + GOOD
    yield "ng-lengths-differ", BEGIN + GOOD + GOOD[:-4] + struct.pack("<I", len(GOOD) + 4) + GOOD
    yield "ng-length-0", BEGIN + GOOD + struct.pack("<3I", 6, 0, 0) + GOOD
    yield "ng-length-8", BEGIN + GOOD + struct.pack("<2I", 6, 8) + GOOD
    yield "ng-longer-than-its-block", BEGIN + GOOD + packet(captured=99) + GOOD
    yield "ng-block-too-short", BEGIN + GOOD + block(6, bytes(8)) + GOOD


def _options() -> Iterator[tuple[str, bytes]]:
    known = {
        "comment": option(1, b"hello"),
        "comments": option(1, b"one") + option(1, "zwei \u20ac".encode()),
        "comment-empty": option(1),
        "comment-no-utf8": option(1, b"\xff\xfe"),
        "comment-long": option(1, b"x" * 65_535),
        "inbound": option(2, b"\1\0\0\0"),
        "outbound": option(2, b"\2\0\0\0"),
        "flags": option(2, struct.pack("<I", 0xFF0001E5)),
        "hash": option(3, b"\2" + bytes(4)),
        "drops": option(4, struct.pack("<Q", 7)),
        "packet-id": option(5, struct.pack("<Q", 1 << 40)),
        "queue": option(6, struct.pack("<I", 3)),
        "verdict": option(7, b"\0" + b"verdict"),
        "custom": option(2988, struct.pack("<I", 32473) + b"text"),
        "unknown": option(0x7777, b"nobody"),
        "flags-of-2-bytes": option(2, b"\1\0"),
    }
    for word, options in known.items():
        yield f"ng-option-{word}", BEGIN + packet(options=options + END) + GOOD
    everything = b"".join(known[word] for word in ("comment", "inbound", "drops", "packet-id", "queue"))
    yield "ng-options", BEGIN + packet(options=everything + END) + GOOD
    yield "ng-options-endless", BEGIN + packet(options=everything) + GOOD
    yield "ng-option-overrun", BEGIN + packet(options=struct.pack("<2H", 1, 99) + b"abcd") + GOOD
    turned = option(1, b"hello", ">") + option(2, b"\0\0\0\1", ">") + option(4, struct.pack(">Q", 7), ">")
    yield "ng-options-be", section(b"", ">") + interface(b"", ">") + packet(options=turned + END, order=">")
    two = section() + interface() + interface(resolution(9), linktype=RADIOTAP)
    yield (
        "ng-options-of-two",
        two
        + packet(options=known["comment"])
        + packet(SECOND * 10**9 + 1, options=known["inbound"], number=1),
    )


def _pcapng_cuts() -> Iterator[tuple[str, bytes]]:
    blocks = [section(), interface(), packet(options=option(1, b"comment") + END), GOOD]
    whole = b"".join(blocks)
    bounds = [sum(map(len, blocks[:count])) for count in range(len(blocks) + 1)]
    places = set(bounds[1:-1])
    for begin, end in pairwise(bounds):
        places |= {begin + 3, begin + 8, begin + 12, end - 4, end - 1}
    places.add(bounds[2] + 60)  # in its bytes
    places.add(bounds[2] + 92)  # in its options
    for cut in sorted(places):
        yield f"ng-cut-at-{cut}", whole[:cut]
    yield "ng-zeros-behind", whole + bytes(16)
    yield "ng-junk-behind", whole + b"\xff" * 100
    yield "ng-gzip", gzip.compress(whole, mtime=0)
