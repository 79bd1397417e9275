"""Counts the packets of a live pcap or pcapng stream; prints their number ten times a second.

Reads stdin, or the unix socket that is named. Run with -I -S.
"""

import os
import socket
import struct
import sys
import time


def main():
    if len(sys.argv) > 1:
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(sys.argv[1])
        fd = peer.detach()
    else:
        fd = 0
    data = b""
    packets = 0
    told = 0.0
    shape = None
    head = struct.Struct("<II").unpack_from
    old = struct.Struct("<8xI").unpack_from
    while True:
        read = os.read(fd, 1 << 20)
        if not read:
            break
        data = data + read if data else read
        at = 0
        if shape is None:
            if len(data) < 24:
                continue
            shape = "pcapng" if data[:4] == b"\x0a\x0d\x0d\x0a" else "pcap"
            at = 0 if shape == "pcapng" else 24
        end = len(data)
        if shape == "pcapng":
            while at + 8 <= end:
                kind, length = head(data, at)
                if at + length > end:
                    break
                if kind == 6:
                    packets += 1
                at += length
        else:
            while at + 16 <= end:
                length = 16 + old(data, at)[0]
                if at + length > end:
                    break
                packets += 1
                at += length
        data = data[at:]
        if time.monotonic() - told > 0.1:
            told = time.monotonic()
            print(packets, flush=True)
    print(packets, flush=True)


if __name__ == "__main__":
    main()
