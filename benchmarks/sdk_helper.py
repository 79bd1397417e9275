"""A helper as its author would write it: hands the packets of a pcap file, read beforehand, over one by one."""

import struct

from helperd.helpers.sdk import Device, Helper, main


class Producer(Helper):
    TYPE = "producer"
    SUMMARY = "packets of a file, one writer.packet() each"

    def open(self, definition):
        self.contents = []
        with open(definition.interface, "rb") as file:
            head = file.read(24)
            while record := file.read(16):
                self.contents.append(file.read(struct.unpack("<8xI4x", record)[0]))
        return Device(dlt=struct.unpack_from("<I", head, 20)[0], hardware="memory")

    def capture(self, writer):
        packet = writer.packet
        for content in self.contents:
            packet(content)


main(Producer)
