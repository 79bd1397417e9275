"""A fourth generation, made for the tests.

0 signature, 4 sentinel CAFE0004, 8 length, 12 one byte of command, 13 payload as JSON
"""

import json
import struct

from helperd.errors import LocalProtocolError, RemoteProtocolError
from helperd.wire import messages as m
from helperd.wire.frames import ControlFrame, Kind, Run

COMMANDS = {1: m.Ping, 2: m.Pong, 3: m.OpenRequest, 4: m.OpenReport, 5: m.Text}


class V4:
    """The whole of it."""

    name = "v4"
    number = 4
    header = 13
    receiver_limit = 65535

    def claims(self, word):
        return word == 0xCAFE0004

    def scan(self, data, start, at, scan, out):
        position = start
        while len(data) - position >= 13:
            signature, word, length, command = struct.unpack_from(">IIIB", data, position)
            stop = position + 13 + length
            if (
                signature != 0xDECAFBAD
                or word != 0xCAFE0004
                or stop > len(data)
                or length + 13 > scan.max_frame
            ):
                break
            if command == 9:
                out.append(Run(Kind.PACKETS, data, position, stop, 1, 1))
            else:
                out.append(ControlFrame(self, command, 0, 0, data[position + 13 : stop], at + position))
            position = stop
        return position

    def is_report(self, data):
        return False

    def decode(self, frame):
        if frame.command not in COMMANDS:
            return m.Unknown(str(frame.command))
        try:
            return COMMANDS[frame.command](**json.loads(frame.payload))
        except (ValueError, TypeError) as error:
            raise RemoteProtocolError("bad-payload", str(error), at=frame.at, excerpt=frame.payload) from None

    def encode(self, message, seqno):
        if isinstance(message, m.DataReport):
            return self.frame(9, message.packet.content)
        for command, kind in COMMANDS.items():
            if type(message) is kind:
                names = (
                    name
                    for name in kind.__slots__
                    if name != "channels" and getattr(message, name) is not None
                )
                return self.frame(
                    command, json.dumps({name: getattr(message, name) for name in names}).encode()
                )
        raise LocalProtocolError("not-supported", f"v4 has no {type(message).__name__}")

    @staticmethod
    def frame(command, payload):
        return struct.pack(">IIIB", 0xDECAFBAD, 0xCAFE0004, len(payload), command) + payload

    def packets(self, run):
        return self.records(run)

    def records(self, run):
        yield None, None, 0, run.nbytes - 13, run.data[run.start + 13 : run.stop], None

    def blocks(self, run):
        return iter(())
