"""Reads a pcapng stream as fast as it comes into memory touched beforehand, then counts its packets.

Prints `ready` when it stands ready, and at the end one line of JSON: seconds, packets, nbytes. Run with -I -S.
"""

import argparse
import json
import select
import socket
import struct
import sys
import time

HEADERS = 1024  # bytes a live stream may begin with long before its first packet: no time runs before


def count(data):
    """Packets and their captured bytes in whole pcapng blocks (little-endian)."""
    at, packets, nbytes = 0, 0, 0
    head = struct.Struct("<II").unpack_from
    captured = struct.Struct("<I").unpack_from
    while at + 8 <= len(data):
        kind, length = head(data, at)
        if length < 12 or length % 4:
            sys.exit(f"drain: no pcapng block at byte {at}")
        if at + length > len(data):
            break
        if kind == 6:
            packets += 1
            nbytes += captured(data, at + 20)[0]
        at += length
    return packets, nbytes


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--room", type=int, required=True)
    parser.add_argument("--idle", type=float, required=True)
    parser.add_argument("--connect")
    options = parser.parse_args()
    room = memoryview(bytearray(b"\1") * options.room)  # every page is touched now, not while the clock runs
    stream = sys.stdin.buffer.raw
    if options.connect:
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(options.connect)
        stream = peer.makefile("rb", buffering=0)
    print("ready", flush=True)
    poller = select.poll()
    poller.register(stream, select.POLLIN)
    at, first, last = 0, 0.0, 0.0
    while poller.poll(options.idle * 1000 if at > HEADERS else None):
        size = stream.readinto(room[at : at + (1 << 20)])
        if not size:
            break
        last = time.perf_counter()
        at += size
        if at > HEADERS:
            first = first or last
        if at == len(room):
            sys.exit("drain: more bytes than there is room for")
    packets, nbytes = count(room[:at])
    print(json.dumps({"seconds": last - first, "packets": packets, "nbytes": nbytes}))


if __name__ == "__main__":
    main()
