"""Read helperd's live streams from Python: pcapng and the frames format, in plain code and under trio.

``helperd.client.sync`` and ``helperd.client.trio`` have the same two functions:

    packets(address)   packets of a pcapng socket, as ``Packet``
    records(address)   runs of helper frames of a frames socket, as ``Record``

An address is the path of a unix socket, or ``tcp:HOST:PORT``. ``PacketReader`` and ``RecordReader`` do the same for
bytes that come from anywhere else. Needs nothing but the standard library (and trio, for its half).
"""

from __future__ import annotations

from helperd.client.frames import split_frames
from helperd.client.packets import Interface, Packet, PacketReader
from helperd.relay import Kind, Record, RecordReader

__all__ = ["Interface", "Kind", "Packet", "PacketReader", "Record", "RecordReader", "split_frames"]
