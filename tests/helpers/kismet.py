"""What a helper meets of a Kismet server of 2025-09: how it is found, started and asked, and what it is given.

Facts: kismet-protocol.md, sections 1.5, 1.6, 1.8, 3.1, 3.4, 4.2 to 4.4, 5.1, 5.2 and appendix B.
"""

import os
import re
import stat
from pathlib import Path

from helperd.wire.frames import FrameScanner
from helperd.wire.generations import GENERATIONS
from helperd.wire.messages import OpenReport, OpenRequest, Ping, Pong, ProbeReport, ProbeRequest
from tests.helpers.peer import Peer

DRIVERS = {
    "linuxwifi": "kismet_cap_linux_wifi",
    "openbsdwifi": "kismet_cap_openbsd_wifi",
    "pcapfile": "kismet_cap_pcapfile",
    "rtl433": "kismet_cap_sdr_rtl433",
    "radview": "kismet_cap_serial_radview",
}
MAX_FRAME = 16383
"""Bytes of a whole frame, above which the server drops the link."""


class Refused(Exception):
    """The server cannot open a source, or has given it up for now."""


def options_of(text):
    """A definition as the server reads it: never fails, understands no list without quotes."""
    interface, _, rest = text.partition(":")
    options, at = {}, 0
    while at < len(rest):
        equals = rest.find("=", at)
        if equals < 0:
            break
        key, value, quoted = rest[at:equals].lower(), "", False
        at = equals + 1
        while at < len(rest) and (quoted or rest[at] != ","):
            quoted ^= rest[at] == '"'
            value += rest[at].replace('"', "")
            at += 1
        if value or at < len(rest):
            options[key] = value
        at += 1
    return interface, options


class Server:
    """One server.

    Args:
        config: text of its kismet_site.conf.
        own: where ``%B`` is.
        environment: what it was started with.
    """

    def __init__(self, config, own, environment=None):
        lines = [line.split("=", 1) for line in config.splitlines() if "=" in line]
        self.path = [value.replace("%B", str(own)) for key, value in lines if key == "helper_binary_path"]
        self.sources = [Source(self, value) for key, value in lines if key == "source"]
        self.environment = {"KISMET_ETC": "/etc/kismet", "HELPERD_PATH": "", **(environment or {})}

    def program(self, kind):
        """What the driver of a type starts."""
        if kind.lower() not in DRIVERS:
            raise Refused(f"no driver for type {kind}")
        for folder in self.path:
            file = Path(folder) / DRIVERS[kind.lower()]
            if file.is_file() and file.stat().st_mode & stat.S_IXUSR:
                return str(file)
        raise Refused(f"no {DRIVERS[kind.lower()]} in {self.path}")

    def start(self, kind):
        """A fresh process, greeted: whatever it is for."""
        return Started(self.program(kind), self.environment)

    def probe(self, definition):
        """Types whose programs say that a definition is theirs."""
        found = []
        for kind, name in DRIVERS.items():
            if any((Path(folder) / name).exists() for folder in self.path):
                with self.start(kind) as helper:
                    helper.send(ProbeRequest(definition))
                    if helper.expect(ProbeReport).success:
                        found.append(kind)
        return found


class Started(Peer):
    """A process that the server has started: pipes that are inherited as they are, the v2 PING, then v3."""

    def __init__(self, program, environment):
        super().__init__(argv=[program], helperd=False, greet=False, env=environment)
        self.strict = FrameScanner(GENERATIONS, sticky=False)
        try:
            greeting = self.session.greeting()
            assert greeting.startswith(bytes.fromhex("decafbadabcd000200000000") + b"PING")
            assert len(greeting) == 48
            os.write(self.to, greeting)
            self.expect(Pong)
            assert self.session.generation.name == "v3"
        except BaseException:
            self.__exit__()
            raise

    def close(self):
        """As the server does at an error, or at its own end: both pipes, SIGTERM, and SIGKILL at once."""
        self.close_input()
        self.close_output()
        self.process.terminate()
        self.process.kill()
        self.process.wait()


class Source:
    """A ``source=`` line: its options are kept when it is opened anew, and its own text is read again."""

    def __init__(self, server, text):
        self.server = server
        self.text = text
        self.options = {}
        self.helper = None

    def open(self):
        """Start a helper and have it open the definition; returns its report."""
        self.interface, options = options_of(self.text)
        self.options.update(options)
        self.text = (
            self.interface + ":" + ",".join(f"{key}={self.options[key]}" for key in sorted(self.options))
        )
        helper = self.helper = self.server.start(self.options["type"])
        helper.send(OpenRequest(self.text))
        report = helper.expect(OpenReport)
        if not report.success:
            helper.close()
            raise Refused(report.message)
        helper.send(Ping())
        helper.expect(Pong)
        return report


def texts(helper):
    """What a helper has said so far, in the order it said it."""
    return [message.text for message in helper.messages if hasattr(message, "text")]


def printed(page, language):
    """The blocks of a language in a page of the docs."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
