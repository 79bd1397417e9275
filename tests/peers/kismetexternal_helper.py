"""A helper built on PyPI's kismetexternal 2020.7.1, as its authors mean it to be used; speaks v0 and nothing else.

    python -m venv VENV && VENV/bin/pip install kismetexternal==2020.7.1 'protobuf<3.21'
    VENV/bin/python tests/peers/kismetexternal_helper.py --in-fd=N --out-fd=N

It lists one device, recognises definitions of interface "counter", opens them and sends numbered packets, then stays
until it is told to end. Options of the definition: packets (20000), size (200), dlt (1), after (seconds to wait before
the first packet, 0). ``packet(n, size)`` here and in a test say the same bytes.
"""

import argparse
import asyncio
import hashlib
import sys

SECOND = 1_700_000_000


def packet(number, size):
    """Content and time stamp of one packet: (bytes, seconds, microseconds)."""
    seed = hashlib.sha256(number.to_bytes(8, "big")).digest()
    content = (number.to_bytes(8, "big") + seed * (size // 32 + 1))[:size]
    return content, SECOND + number // 1000, number % 1000 * 1000


class Counter:
    """The helper: four callbacks and a task."""

    def __init__(self, infd, outfd):
        import asyncio

        import kismetexternal
        from kismetexternal import datasource_pb2

        # the library of 2020 takes the thread's event loop; Python 3.14 makes none by itself
        asyncio.set_event_loop(asyncio.new_event_loop())
        self.pb = datasource_pb2
        self.kismet = kismetexternal.Datasource(infd, outfd)
        self.kismet.set_listinterfaces_cb(self.list)
        self.kismet.set_probesource_cb(self.probe)
        self.kismet.set_opensource_cb(self.open)
        self.kismet.set_configsource_cb(self.configure)
        self.options = {}

    def run(self):
        if self.kismet.start() < 0:
            return 1
        self.kismet.run()
        return 0

    def list(self, seqno):
        device = self.pb.SubInterface()
        device.interface = "counter"
        device.flags = "packets=20000"
        device.hardware = "a counter"
        self.kismet.send_datasource_interfaces_report(
            seqno, interfaces=[device], success=True, message="one device"
        )

    def probe(self, source, options):
        if source != "counter":
            return None
        return {"success": True, "channels": ["1", "6", "11"], "channel": "6", "hardware": "a counter"}

    def open(self, source, options):
        if source != "counter":
            return {"success": False, "message": f"there is no {source}"}
        self.options = options
        self.kismet.add_task(self.capture)
        return {
            "success": True,
            "dlt": int(options.get("dlt", "1")),
            "channels": ["1", "6", "11"],
            "channel": "6",
            "hardware": "a counter",
            "capture_interface": "counter0",
            "uuid": self.kismet.make_uuid("counter", "000102030405"),
            "message": "counting",
        }

    def configure(self, seqno, request):
        """Tunes to a fixed channel; hop lists are answered without a rate, which the package cannot report."""
        if request.HasField("channel"):
            return {"success": True, "channel": request.channel.channel}
        return {"success": True, "hop_channels": list(request.hopping.channels)}

    async def capture(self):
        await asyncio.sleep(float(self.options.get("after", "0")))
        size = int(self.options.get("size", "200"))
        for number in range(int(self.options.get("packets", "20000"))):
            content, sec, usec = packet(number, size)
            record = self.pb.SubPacket()
            record.time_sec = sec
            record.time_usec = usec
            record.dlt = int(self.options.get("dlt", "1"))
            record.size = len(content)
            record.data = content
            self.kismet.send_datasource_data_report(full_packet=record)
            if number % 20 == 19:
                await self.kismet.ext_writer.drain()
                await asyncio.sleep(0)
        self.kismet.send_message("that was all")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--in-fd", type=int, required=True)
    parser.add_argument("--out-fd", type=int, required=True)
    options, _ = parser.parse_known_args()
    return Counter(options.in_fd, options.out_fd).run()


if __name__ == "__main__":
    sys.exit(main())
