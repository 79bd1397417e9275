"""The main job, end to end: real helpers under a real daemon, and packets in other people's programs."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.patience import HANGS_S, promptly
from tests.rig import HELPERD, ROOT, Stream, daemon

SYNTHETIC = """
[helperd]
socket_mode = "0666"
[[helper]]
name = "synthetic"
command = ["builtin:synthetic"]
types = ["synthetic"]
[[source]]
name = "radio0"
definition = "radio0:type=synthetic,rate={rate}"
"""

REPLAY = """
[[helper]]
name = "pcapfile"
command = ["builtin:pcapfile"]
types = ["pcapfile"]
[[source]]
name = "{name}"
definition = "{file}:type=pcapfile,realtime=false"
start = "first-consumer"
restart = "transient"
[[sink]]
type = "unix"
path = "complete.sock"
overflow = "wait"
"""


def counter_of(content: bytes) -> int:
    """The number that the synthetic radio puts into every packet: the beacon's own time stamp field."""
    number: int = struct.unpack_from("<Q", content, 40)[0]
    return number


def as_nobody() -> None:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)


class TestReaders:
    @pytest.mark.need("tshark", "root", "uid65534")
    def test_tshark_as_nobody_reads_both_sources_and_both_link_types(self, rundir):
        rundir.chmod(0o755)
        home = rundir / "nobody"
        home.mkdir()
        home.chmod(0o777)
        with daemon(rundir, ROOT / "config" / "helpers.toml", command="demo") as rig:
            rig.wait_running()
            began = time.monotonic()
            tshark = subprocess.Popen(
                [
                    *("tshark", "-n", "-l", "-i", str(rundir / "all.sock"), "-c", "200"),
                    *("-T", "fields", "-e", "frame.interface_name", "-e", "frame.encap_type"),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                preexec_fn=as_nobody,
                env={"HOME": str(home), "PATH": os.environ["PATH"], "TMPDIR": str(home)},
                text=True,
            )
            first = tshark.stdout.readline()
            first_after = time.monotonic() - began
            with tshark.stdout:
                rows = [
                    first,
                    *tshark.stdout,
                ]  # not communicate(): it would miss what readline() has buffered
            assert tshark.wait(60) == 0
        seen = {tuple(row.split()) for row in rows if row.strip()}
        assert len(rows) >= 200
        assert len({name for name, _ in seen}) >= 2, seen
        assert len({encapsulation for _, encapsulation in seen}) >= 2, seen
        print(f"first packet after {first_after:.2f} s")

    @pytest.mark.need("tcpdump")
    def test_tcpdump_reads_a_single_sources_socket(self, rundir):
        with daemon(rundir, SYNTHETIC.format(rate=500)) as rig:
            rig.wait_running()
            with rig.connect("sources/radio0.sock") as sock:
                sock.settimeout(None)
                done = subprocess.run(
                    ["tcpdump", "-n", "-r", "-", "-c", "50"],
                    stdin=sock,
                    capture_output=True,
                    text=True,
                    timeout=HANGS_S,
                    check=False,
                )
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 50

    def test_a_late_reader_of_the_mixed_stream_is_told_of_every_interface(self, rundir):
        config = (
            SYNTHETIC.format(rate=200)
            + '[[source]]\nname = "radio1"\ndefinition = "radio1:type=synthetic,rate=200"\n'
        )
        with daemon(rundir, config) as rig:
            rig.wait_running()
            with rig.connect() as early, rig.connect("sources/radio1.sock") as single:
                seen = Stream(early)
                names = {seen.interfaces[packet.interface][1] for packet in seen.take(200)}
                assert names == {"radio0", "radio1"}
                with rig.connect() as late:
                    stream = Stream(late)
                    stream.take(5)
                    assert [name for _, name in stream.interfaces] == [name for _, name in seen.interfaces]
                alone = Stream(single)
                packets = alone.take(20)
                assert len({packet.interface for packet in packets}) == 1
                assert len({linktype for linktype, _ in alone.interfaces}) == 1


def capture_file(path: Path, linktype: int, packets: list[bytes], nanoseconds: bool) -> None:
    """A pcap file made here, independent of helperd's own writer."""
    with path.open("wb") as file:
        file.write(
            struct.pack("<IHHiIII", 0xA1B23C4D if nanoseconds else 0xA1B2C3D4, 2, 4, 0, 0, 65535, linktype)
        )
        for number, content in enumerate(packets):
            fraction = (number * 7919 * 997) % (1_000_000_000 if nanoseconds else 1_000_000)
            file.write(
                struct.pack("<IIII", 1_700_000_000 + number // 100, fraction, len(content), len(content))
            )
            file.write(content)


class TestReplay:
    @pytest.mark.need("tshark")
    @pytest.mark.parametrize(("linktype", "nanoseconds"), [(1, True), (105, True), (1, False)])
    def test_a_complete_replay_is_identical_packet_for_packet(self, rundir, linktype, nanoseconds):
        count = 20_000
        packets = [
            struct.pack(">QI", number, number * 2654435761 & 0xFFFFFFFF) * 1
            + bytes((number * 31 + i) & 0xFF for i in range(48 + (number * 37) % 8941))
            if number % 50 == 0
            else struct.pack(">Q", number) + bytes(52 + number % 400)
            for number in range(count)
        ]
        assert min(map(len, packets)) >= 60
        assert max(map(len, packets)) <= 9000
        original = rundir / "original.pcap"
        capture_file(original, linktype, packets, nanoseconds)
        copy = rundir / "copy.pcapng"
        with (
            daemon(rundir, REPLAY.format(name="replay", file=original)) as rig,
            rig.connect("complete.sock") as sock,
        ):
            received = bytearray()
            want = count
            stream = Stream(sock)
            recv = sock.recv

            class Recorder:
                def recv(self, size):
                    data = recv(size)
                    received.extend(data)
                    return data

            stream.sock = Recorder()
            stream.take(want)
            assert rig.source("replay")["lost"] == {}
        copy.write_bytes(received)
        fields = [
            "-T",
            "fields",
            "-e",
            "frame.time_epoch",
            "-e",
            "frame.len",
            "-e",
            "frame.cap_len",
            "-e",
            "frame.md5_hash",
        ]
        fields += ["-o", "frame.generate_md5_hash:TRUE"]
        told = [
            subprocess.run(
                ["tshark", "-n", "-r", str(file), *fields], capture_output=True, text=True, check=True
            ).stdout
            for file in (original, copy)
        ]
        assert told[0].count("\n") == count
        assert told[0] == told[1]

    @pytest.mark.filterwarnings("ignore::DeprecationWarning:pcapng")
    def test_python_pcapng_reads_what_a_consumer_got(self, rundir):
        from pcapng import FileScanner
        from pcapng.blocks import EnhancedPacket

        packets = [struct.pack(">Q", number) * 8 for number in range(500)]
        original = rundir / "original.pcap"
        capture_file(original, 1, packets, nanoseconds=False)
        copy = rundir / "copy.pcapng"
        with (
            daemon(rundir, REPLAY.format(name="replay", file=original)) as rig,
            rig.connect("complete.sock") as sock,
        ):
            data = bytearray()
            thread = threading.Thread(target=_read_all, args=(sock, data))
            thread.start()
            rig.wait(
                lambda status: (
                    status["sources"][0]["packets"] == 500 and status["sources"][0]["state"] == "down"
                )
            )
            rig.stop()
            thread.join(HANGS_S)
        copy.write_bytes(data)
        with copy.open("rb") as file:
            found = [block.packet_data for block in FileScanner(file) if isinstance(block, EnhancedPacket)]
        assert found == packets

    def test_a_file_cut_in_mid_packet_delivers_all_whole_packets(self, rundir):
        packets = [bytes([number]) * 100 for number in range(50)]
        whole = rundir / "whole.pcap"
        capture_file(whole, 1, packets, nanoseconds=False)
        cut = rundir / "cut.pcap"
        cut.write_bytes(whole.read_bytes()[:-30])
        with (
            daemon(rundir, REPLAY.format(name="cut", file=cut)) as rig,
            rig.connect("complete.sock") as sock,
        ):
            assert [packet.content for packet in Stream(sock).take(49)] == packets[:49]
            (row,) = rig.wait(lambda status: status["sources"][0]["state"] == "down")["sources"]
            assert (row["packets"], row["why"], row["exit"]["problem"]) == (49, "done", "bad-capture")

    @pytest.mark.parametrize(
        "content", [b"", b"\xd4\xc3\xb2\xa1", b"this is only text, not a capture\n" * 10]
    )
    def test_what_is_no_capture_is_refused_by_probe_and_open(self, rundir, content):
        file = rundir / "odd.pcap"
        file.write_bytes(content)
        config = REPLAY.format(name="odd", file=file).replace("first-consumer", "boot")
        (rundir / "probe.toml").write_text(config)
        probe = subprocess.run(
            [*HELPERD, "probe", "-c", str(rundir / "probe.toml"), f"{file}:type=pcapfile"],
            cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S, check=False,
        )  # fmt: skip
        assert probe.returncode == 1
        assert "odd.pcap" in probe.stderr
        with daemon(rundir, config) as rig:
            rig.wait(lambda status: status["sources"][0]["exit"] is not None)
            row = rig.wait(lambda status: status["sources"][0]["state"] == "down")["sources"][0]
            assert (row["why"], row["incarnation"]) == ("done", 1)
            assert row["exit"]["kind"] == "input"
            assert row["exit"]["problem"] == "bad-capture"
            assert "odd.pcap" in row["exit"]["text"]


def _read_all(sock: socket.socket, into: bytearray) -> None:
    while data := sock.recv(1 << 16):
        into += data


class TestDeath:
    def test_a_killed_helper_streams_again_and_its_consumers_stay(self, rundir):
        with daemon(rundir, SYNTHETIC.format(rate=2000)) as rig, rig.connect() as sock:
            stream = Stream(sock)
            stream.take(500)
            before = rig.wait_running("radio0")["sources"][0]
            os.kill(before["pid"], signal.SIGKILL)
            killed = time.monotonic()
            for packet in stream.packets():
                if counter_of(packet.content) == 0:
                    break
            print(f"streams again after {time.monotonic() - killed:.3f} s")
            after = rig.wait_running("radio0")["sources"][0]
            assert after["restarts"] == 1
            assert after["exit"]["problem"] == "killed"
            assert after["pid"] != before["pid"]

    def test_a_killed_supervisor_takes_every_helper_with_it(self, rundir):
        with daemon(rundir, SYNTHETIC.format(rate=100), ends_with=None) as rig:
            status = rig.wait_running()
            helper = os.pidfd_open(status["sources"][0]["pid"])
            os.kill(status["pid"], signal.SIGKILL)
            poll = select.poll()
            poll.register(helper, select.POLLIN)
            with promptly("the helper's end", 1.0):
                assert poll.poll(HANGS_S * 1000), "the helper still lives"
            os.close(helper)
            assert rig.process.wait(HANGS_S) != 0
            for path in rundir.glob("**/*.sock"):
                path.unlink()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_everything_within_three_seconds(self, rundir, number):
        with daemon(rundir, ROOT / "config" / "helpers.toml", command="demo") as rig:
            rig.wait_running()
            with promptly("the end of all", 3.0):
                assert rig.stop(number) == 0
            assert not list(rundir.glob("**/*.sock"))

    def test_the_second_start_replaces_the_sockets_of_a_killed_daemon(self, rundir):
        with daemon(rundir, SYNTHETIC.format(rate=10), ends_with=None) as rig:
            rig.wait_running()
            os.kill(rig.status()["pid"], signal.SIGKILL)
            rig.process.wait(HANGS_S)
        assert (rundir / "all.sock").exists()
        with daemon(rundir, SYNTHETIC.format(rate=100)) as rig, rig.connect() as sock:
            assert len(Stream(sock).take(5)) == 5


class TestFairness:
    def test_a_stopped_consumer_costs_the_others_nothing_and_its_losses_are_exact(self, rundir):
        config = SYNTHETIC.format(rate=1000).replace("rate=1000", "rate=1000,size=2000")
        with daemon(rundir, config) as rig:
            rig.wait_running()
            socks = [rig.connect() for _ in range(8)]
            stopped = Stream(socks[-1])
            first = stopped.take(100)
            kept = [bytearray() for _ in socks[:-1]]
            threads = [
                threading.Thread(target=_keep, args=(sock, into))
                for sock, into in zip(socks, kept, strict=False)
            ]
            for thread in threads:
                thread.start()
            rig.wait(lambda status: max(row["lost"] for row in status["consumers"]) > 1000)
            rest: list[int] = []
            last = threading.Thread(target=_collect, args=(stopped, rest))
            last.start()
            rig.wait(lambda status: all(row["queued"] < 500 for row in status["consumers"]))
            rig.call("Stop", source="radio0")
            status = rig.wait(lambda status: all(row["queued"] == 0 for row in status["consumers"]))
            rig.stop()
            for thread in [*threads, last]:
                thread.join(HANGS_S)
                assert not thread.is_alive()
            for sock in socks:
                sock.close()
        counts = [_counters(data) for data in kept]
        counts.append([counter_of(packet.content) for packet in first] + rest)
        for row in status["consumers"]:
            assert row["offered"] == row["packets"] + row["lost"]
        assert [row["lost"] for row in status["consumers"]][:7] == [0] * 7
        final = max(numbers[-1] for numbers in counts)
        for numbers in counts[:7]:
            assert numbers == list(range(numbers[0], final + 1)), "a consumer that read lost a packet"
        numbers = counts[-1]
        assert numbers == sorted(set(numbers))
        assert len(numbers) + sum(stopped.dropped.values()) == final - numbers[0] + 1
        assert stopped.dropped == {0: status["consumers"][-1]["lost"]}


def _keep(sock: socket.socket, into: bytearray) -> None:
    """Read as fast as one can: what came is looked at afterwards."""
    while data := sock.recv(1 << 20):
        into += data


def _counters(data: bytearray) -> list[int]:
    """The packets of a stream that was kept."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.shutdown(socket.SHUT_WR)
        stream = Stream(ours)
        stream.buffer = data
        return [counter_of(packet.content) for packet in stream.packets()]


def _collect(stream: Stream, into: list[int]) -> None:
    into.extend(counter_of(packet.content) for packet in stream.packets())


class TestRefusals:
    def test_a_second_daemon_in_the_same_directory_is_refused(self, rundir):
        with daemon(rundir, SYNTHETIC.format(rate=10)) as rig:
            rig.wait_running()
            second = subprocess.run(
                [*HELPERD, "run", "-c", str(rundir / "helpers.toml"), f"--runtime-dir={rundir}"],
                cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S, check=False,
            )  # fmt: skip
            assert second.returncode == 1, second.stderr
            assert "socket-in-use" in second.stderr
            assert rig.source("radio0")["state"] == "running"

    def test_a_socket_path_that_is_too_long_is_refused_with_its_length(self, tmp_path):
        deep = tmp_path / ("x" * 90)
        deep.mkdir()
        (tmp_path / "c.toml").write_text(SYNTHETIC.format(rate=1))
        done = subprocess.run(
            [*HELPERD, "run", "-c", str(tmp_path / "c.toml"), f"--runtime-dir={deep}"],
            cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "path-too-long" in done.stderr
        assert "107" in done.stderr

    def test_a_file_where_the_socket_should_be_is_left_alone(self, rundir):
        (rundir / "all.sock").write_text("precious")
        (rundir / "c.toml").write_text(SYNTHETIC.format(rate=1))
        done = subprocess.run(
            [*HELPERD, "run", "-c", str(rundir / "c.toml"), f"--runtime-dir={rundir}"],
            cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "not a socket" in done.stderr
        assert (rundir / "all.sock").read_text() == "precious"

    @pytest.mark.parametrize("mode", ["garbage", "oversized", "half-frame", "wrong-version"])
    def test_a_helper_that_breaks_the_wire_is_restarted_and_hurts_nobody(self, rundir, bad_helper, mode):
        command = bad_helper(mode)
        words = ", ".join(f'"{word}"' for word in command)
        config = (
            SYNTHETIC.format(rate=1000)
            + f"""
[[helper]]
name = "bad"
command = [{words}]
types = ["bad"]
[[source]]
name = "bad"
definition = "x:type=bad"
"""
        )
        with daemon(rundir, config) as rig, rig.connect("sources/radio0.sock") as sock:
            rig.wait_running("radio0")
            stream = Stream(sock)
            first = counter_of(stream.take(1)[0].content)
            status = rig.wait(lambda status: status["sources"][1]["restarts"] >= 2)
            bad = status["sources"][1]
            assert bad["exit"]["kind"] in {
                "accident",
                "wrong-generation",
            }  # a v0 helper might have answered so
            assert bad["exit"]["problem"] in {
                "bad-signature", "frame-too-long", "partial-frame", "bad-version", "wrong-generation", "exited",
            }  # fmt: skip
            numbers = [counter_of(packet.content) for packet in stream.take(1000)]
            assert numbers == list(range(first + 1, first + 1001))
            assert rig.source("radio0")["restarts"] == 0


class TestAsking:
    @pytest.fixture
    def config(self, tmp_path) -> Path:
        path = tmp_path / "helpers.toml"
        path.write_text(
            SYNTHETIC.format(rate=1)
            + '[[helper]]\nname = "pcapfile"\ncommand = ["builtin:pcapfile"]\ntypes = ["pcapfile"]\n'
        )
        return path

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*HELPERD, *words], cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S, check=False
        )

    @pytest.mark.parametrize(
        ("definition", "status"),
        [
            ("radio0", 0),
            ("radio0:type=synthetic", 0),
            ("no-such-thing", 1),
            ("x:type=unheard-of", 64),
            ("", 64),
        ],
    )
    def test_probe_says_yes_no_or_what(self, config, definition, status):
        done = self.ask("probe", "-c", str(config), "--json", definition)
        assert done.returncode == status, done.stderr
        if status < 64:
            import json

            answer = json.loads(done.stdout)
            assert (answer["helper"] is not None) == (status == 0)
        else:
            assert done.stderr.startswith("helperd: ")

    def test_list_names_every_helper_that_fails_with_its_reason(self, config, bad_helper):
        text = config.read_text()
        for mode in ("silence", "garbage", "crash"):
            words = ", ".join(f'"{word}"' for word in bad_helper(mode, at="hello"))
            text += f'[[helper]]\nname = "{mode}"\ncommand = [{words}]\n'
        config.write_text(text)
        done = self.ask("list", "-c", str(config))
        assert done.returncode == 0, done.stderr
        assert "radio0:type=synthetic" in done.stdout
        lines = done.stderr.splitlines()
        for mode in ("silence", "garbage", "crash"):
            assert any(line.startswith(f"{mode}: ") for line in lines), done.stderr
