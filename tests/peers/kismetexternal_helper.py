"""A capture helper on PyPI's `kismetexternal` 2020.7.1 as it is: wire generation v0, Python, from a venv of its own.

    kismetexternal_helper.py --in-fd=N --out-fd=N

Serves `old0`: lists it, probes it, opens it, lets itself be configured, and sends `count=N` data reports (default
20,000) of `size=N` bytes: the packet's number as 64 bits, big-endian, then fill bytes. Then it stays.
"""

import argparse
import asyncio
import struct
import sys

import kismetexternal
from kismetexternal import datasource_pb2


class OldHelper:
    def __init__(self):
        parser = argparse.ArgumentParser()
        parser.add_argument("--in-fd", type=int, required=True)
        parser.add_argument("--out-fd", type=int, required=True)
        options = parser.parse_args()
        self.channel = "1"
        self.kds = kismetexternal.Datasource(options.in_fd, options.out_fd)
        self.kds.set_listinterfaces_cb(self.list)
        self.kds.set_probesource_cb(self.probe)
        self.kds.set_opensource_cb(self.open)
        self.kds.set_configsource_cb(self.configure)

    def list(self, seqno):
        interface = datasource_pb2.SubInterface()
        interface.interface = "old0"
        interface.flags = ""
        interface.hardware = "kismetexternal"
        self.kds.send_datasource_interfaces_report(seqno, [interface])

    def probe(self, source, options):
        if source != "old0":
            return None
        return {"success": True, "hardware": "kismetexternal", "channels": ["1", "6", "11"], "channel": "1"}

    def open(self, source, options):
        if source != "old0":
            return {"success": False, "message": f"{source} is not mine"}
        self.kds.add_task(self.stream, [int(options.get("count", 20000)), int(options.get("size", 200))])
        return {
            "success": True,
            "dlt": 147,
            "capture_interface": "old0",
            "channels": ["1", "6", "11"],
            "channel": self.channel,
            "hardware": "kismetexternal",
            "uuid": kismetexternal.Datasource.make_uuid("helperd_old", "000000000001"),
        }

    def configure(self, seqno, request):
        if request.HasField("channel"):
            self.channel = request.channel.channel
            return {"success": True, "channel": self.channel}
        return {"success": False, "message": "only fixed channels"}

    async def stream(self, count, size):
        await asyncio.sleep(0.05)  # behind the open report, which is sent after `open` has returned
        for number in range(count):
            packet = datasource_pb2.SubPacket()
            packet.time_sec = 1600000000 + number // 1000
            packet.time_usec = number % 1000 * 1000
            packet.dlt = 147
            packet.size = size
            packet.data = struct.pack(">Q", number) + bytes([number & 0xFF]) * (size - 8)
            self.kds.send_datasource_data_report(full_packet=packet)
            if number % 20 == 0:
                await self.kds.ext_writer.drain()
                await asyncio.sleep(0)

    def run(self):
        if self.kds.start() < 0:
            return 1
        self.kds.run()
        return 0


sys.exit(OldHelper().run())
