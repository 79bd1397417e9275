"""Plays the helper's side of a recording: waits for so many frames, writes what the real helper then wrote.

    recorded_helper.py --in-fd=N --out-fd=N STREAM PLAN...

STREAM is the file with the helper's bytes; each PLAN is FRAMES:START:STOP: once that many frames have come in all,
write those bytes of the stream, a few at a time. After the last one the helper waits for the end of its input.
"""

import argparse
import os
import struct
import sys

HEADERS = {0xABCD0002: 48, 0xA9A90003: 20}


def read_frame(fd: int) -> bool:
    """Whether one more frame came, of any generation."""
    head = read_exactly(fd, 12)
    if head is None:
        return False
    _, word, length = struct.unpack(">III", head)
    return read_exactly(fd, HEADERS.get(word, 12) - 12 + length) is not None


def read_exactly(fd: int, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        piece = os.read(fd, size - len(data))
        if not piece:
            return None
        data += piece
    return data


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--in-fd", type=int, required=True)
    parser.add_argument("--out-fd", type=int, required=True)
    parser.add_argument("stream")
    parser.add_argument("plan", nargs="*")
    options = parser.parse_args()
    with open(options.stream, "rb") as file:
        data = file.read()
    seen = 0
    for step in options.plan:
        wanted, start, stop = map(int, step.split(":"))
        while seen < wanted:
            if not read_frame(options.in_fd):
                return 3
            seen += 1
        for at in range(start, stop, 37):
            os.write(options.out_fd, data[at : min(at + 37, stop)])
    os.close(options.out_fd)
    while os.read(options.in_fd, 4096):
        pass
    return 1  # what C helpers end with, whatever happened


if __name__ == "__main__":
    sys.exit(main())
