"""A stand-in for a foreign v3 helper: turns a pcap file into single-packet frames beforehand, then writes 64 KiB at a
time. Speaks the wire by itself, so that its cost is not ours. Run with -I -S."""

import os
import select
import struct
import sys

HEAD = struct.Struct(">IHHIHHI")
fds = dict(word.split("=") for word in sys.argv[1:] if "=" in word)
FROM, TO = int(fds["--in-fd"]), int(fds["--out-fd"])


def frame(kind, code, seqno, payload=b""):
    return HEAD.pack(0xDECAFBAD, 0xA9A9, 3, len(payload), kind, code, seqno) + payload


def read(size):
    data = b""
    while len(data) < size:
        more = os.read(FROM, size - len(data))
        if not more:
            sys.exit(0)
        data += more
    return data


def write(data):
    data = memoryview(data)
    while data:
        data = data[os.write(TO, data[: 64 << 10]) :]


def packed(number):
    for code, form, limit in ((0xCC, ">BB", 1 << 8), (0xCD, ">BH", 1 << 16), (0xCE, ">BI", 1 << 32)):
        if number < 128:
            return bytes([number])
        if number < limit:
            return struct.pack(form, code, number)
    raise ValueError(number)


def frames_of(path):
    with open(path, "rb") as file:
        data = file.read()
    linktype = struct.unpack_from("<I", data, 20)[0]
    at = 24
    frames = []
    seqno = 2
    while at < len(data):
        sec, nsec, size, original = struct.unpack_from("<IIII", data, at)
        content = data[at + 16 : at + 16 + size]
        at += 16 + size
        binary = b"\xc4" + bytes([size]) if size < 256 else b"\xc5" + struct.pack(">H", size)
        block = b"\x85\x01" + packed(linktype) + b"\x02" + packed(sec) + b"\x03" + packed(nsec // 1000)
        block += b"\x04" + packed(original) + b"\x06" + binary + content
        seqno += 1
        frames.append(frame(16, 0, seqno, b"\x81\x04" + block))
    return b"".join(frames)


def main():
    data = b""
    opened = False
    while True:
        if opened and not select.select([FROM], [], [], 0)[0]:
            if not data:
                select.select([FROM], [], [])
                continue
            write(data[: 1 << 20])
            data = data[1 << 20 :]
            continue
        head = read(12)
        _, sentinel, _, size = struct.unpack(">IHHI", head)
        if sentinel == 0xABCD:
            read(36 + size)
            write(frame(3, 0, 0))
            continue
        kind, _, seqno = struct.unpack(">HHI", read(8))
        payload = read(size)
        if kind == 2:
            write(frame(3, 0, seqno))
        elif kind == 12:
            definition = payload[payload.index(b"/") :].decode()
            data = memoryview(frames_of(definition.partition(":")[0]))
            write(frame(13, 1, seqno, b"\x82\x01" + packed(seqno) + b"\x02\x01"))
            opened = True
        elif kind == 4:
            return


main()
