"""Places and turns: one user has so many readers, connections and questions; whoever owns the daemon has a place."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from helperd.client.sync import packets, records
from helperd.control.call import OWN
from helperd.control.connection import Limits
from helperd.errors import UnavailableError
from helperd.places import Entrance, Places, Rank, Teller, Turns, bound
from tests.control.fake import As, TunableDaemon, served, wire
from tests.patience import HANGS_S
from tests.rig import daemon
from tests.sinks.kit import Feeder, bench


def test_a_user_has_so_many_and_the_last_are_for_admins_and_owners() -> None:
    places = Places("things", 5, 2, 1, "key")
    assert [places.take(who, Rank.READER) for who in (1, 1, 2, "::1", "::1")] == [""] * 5
    assert places.take(1, Rank.READER) == "uid 1 has 2 things: end one, or raise key in helpers.toml(5)"
    assert places.take("::1", Rank.READER).startswith("::1 has 2")
    assert places.take(3, Rank.READER) == "there are 5 things: try again when some have gone"
    assert places.take(1, Rank.ADMIN).startswith("uid 1 has")
    assert [places.take(3, rank) for rank in (Rank.ADMIN, Rank.OWNER)] == ["", ""]
    assert places.take(3, Rank.OWNER).startswith("there are 7")
    places.leave(1)
    assert [bool(places.take(3, rank)) for rank in Rank] == [True, True, False]
    for who in (1, 2, "::1", "::1", 3, 3, 3):
        places.leave(who)
    assert (places.taken, dict(places.by), places.refused) == (0, {}, 7)


def test_the_last_descriptors_are_nobodys_place() -> None:
    said: list[tuple[str, str]] = []
    entrance = Entrance(Places("things", 9, 9), lambda: 20, lambda *words: said.append(words))
    assert (entrance.is_kept(19), entrance.is_kept(20)) == (False, True)
    assert entrance.admit("door", 1, Rank.READER, above=False) == ""
    assert entrance.admit("door", 1, Rank.READER, above=True).startswith("the last descriptors are kept")
    assert entrance.admit("door", 1, Rank.ADMIN, above=True, kept=1) == ""
    assert entrance.admit("door", 1, Rank.ADMIN, above=True, kept=1) != ""
    assert [where for where, _ in said] == ["door", "door"]
    assert (entrance.places.taken, entrance.places.refused, entrance.above) == (2, 2, 1)
    entrance.leave(1, above=True)
    assert entrance.admit("door", 1, Rank.ADMIN, above=True, kept=1) == ""


def test_more_is_kept_for_more_programs_and_never_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (1024, 1024))
    assert bound(0) > bound(10) > bound(20) >= 512 == bound(10_000)


def test_refusals_are_told_now_and_then_with_their_number() -> None:
    said: list[str] = []
    teller = Teller(lambda _severity, text: said.append(text))
    for now in (5.0, 6.0, 7.0, 66.0, 200.0):
        teller.refused("all.sock", "it is full", now)
    assert said == [
        "all.sock: refused, it is full",
        "all.sock: refused, it is full (2 more since the last time)",
        "all.sock: refused, it is full",
    ]


async def test_in_a_turn_one_of_each_user_and_of_these_one() -> None:
    turns = Turns()
    log: list[str] = []
    ticks = 0

    async def ask(who: str) -> None:
        await turns.wait(who)
        log.append(f"{who}{ticks}")

    with trio.fail_after(HANGS_S):
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(ask, "flood")
            await trio.lowlevel.checkpoint()
            nursery.start_soon(ask, "other")
            while len(log) < 51:
                await trio.lowlevel.checkpoint()
                ticks += 1
    assert len(set(log)) == 51, "two in one turn"
    assert next(at for at, entry in enumerate(log) if entry.startswith("other")) < 8
    assert turns._each == {}


# readers of packets


REFUSED = {"pcapng": packets, "frames": records}


@pytest.mark.parametrize("form", ["pcapng", "frames", "jsonl"])
@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_a_reader_too_many_is_told_why_and_a_place_comes_back(
    tmp_path, monkeypatch, kind, form
) -> None:
    monkeypatch.setattr("helperd.sinks.stream.rank_of", lambda _who: Rank.READER)
    told: list[tuple[str, str]] = []
    entrance = Entrance(Places("readers", 9, 2), on_refused=lambda *words: told.append(words))
    async with bench(tmp_path, kind, form, entrance=entrance) as one:
        feeder = Feeder(one.table)
        first, second = await one.connect(), await one.connect()
        late = trio.socket.socket(first.family, socket.SOCK_STREAM)
        address = one.sink.listener.socket.getsockname()
        await late.connect(address)
        said = b""
        with trio.fail_after(HANGS_S):
            while data := await late.recv(4096):
                said += data
        who = f"uid {os.getuid()}" if kind == "unix" else "127.0.0.1"
        assert f"{who} has 2 readers: end one".encode() in said
        assert told == [("test", f"{who} has 2 readers: end one")]
        late.close()
        if form in REFUSED:
            where = address if kind == "unix" else f"tcp:{address[0]}:{address[1]}"
            with pytest.raises(UnavailableError, match="has 2 readers") as refused:
                await trio.to_thread.run_sync(lambda: list(REFUSED[form](where)))
            assert refused.value.problem == "busy"
        else:
            assert json.loads(said) == {"refused": f"{who} has 2 readers: end one"}
        if form != "jsonl":
            feeder.feed(10)
            assert (await one.read(second, until=9)).numbers == list(range(10))
        if kind == "tcp":
            first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        first.close()
        await one.consumers(1)
        again = await one.connect()
        assert entrance.places.taken == 2
        for sock in (second, again):
            sock.close()


class Clock(trio.abc.Instrument):
    """Counts the turns of the loop."""

    def __init__(self) -> None:
        self.turn = 0

    def before_io_wait(self, _timeout: float) -> None:
        self.turn += 1


async def test_of_many_that_leave_at_once_one_withdraws_in_a_turn(tmp_path) -> None:
    """Whatever else is to be done has its turn in between, and nothing is lost of what they missed."""
    async with bench(tmp_path, "unix", "pcapng") as one:
        feeder = Feeder(one.table)
        socks = [await one.connect() for _ in range(60)]
        outboxes = [consumer.outbox for consumer in one.sink.consumers]
        stays = await one.connect()
        left: list[int] = []
        clock = Clock()
        trio.lowlevel.add_instrument(clock)
        real = one.table.disconnect

        def disconnect(outbox) -> None:
            left.append(clock.turn)
            real(outbox)

        one.table.disconnect = disconnect
        for sock in socks:
            sock.close()
        with trio.fail_after(HANGS_S):
            while len(one.sink.consumers) > 1:
                feeder.feed(1)
                await trio.lowlevel.checkpoint()
        assert len(left) >= 60
        first = [number for at, number in enumerate(left) if number not in left[:at]]
        assert len(first) == 60, "two in one turn"
        assert (await one.read(stays, until=feeder.sent - 1)).numbers == list(range(feeder.sent))
        for outbox in outboxes:
            assert outbox.offered == outbox.delivered + outbox.lost
            assert set(outbox.lost_by) <= {"consumer-left"}
        stays.close()


async def test_readers_that_talk_or_close_half_cost_no_descriptor(tmp_path) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async with bench(tmp_path, "unix", "frames") as one:
        feeder = Feeder(one.table)
        socks = [await one.connect() for _ in range(10)]
        before = descriptors()
        for sock in socks[:5]:
            sock.shutdown(socket.SHUT_WR)
        for sock in socks[5:]:
            await sock.send(b"hello")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert descriptors() == before
        feeder.feed(3)
        assert (await one.read(socks[0], until=2)).numbers == [0, 1, 2]
        for sock in socks:
            sock.close()
        await one.consumers(0)


# the control socket


GIVEN_UP = [
    {"method": f"{OWN}.Stop", "parameters": {"source": "radio0"}},
    {"method": f"{OWN}.Restart", "parameters": {"source": "radio0"}},
    {"method": f"{OWN}.Pause", "parameters": {"source": "radio0"}},
    {"method": f"{OWN}.AddSource", "parameters": {"definition": "x:type=y"}},
    {"method": f"{OWN}.RemoveSource", "parameters": {"source": "radio0"}},
    {"method": f"{OWN}.Probe", "parameters": {"definition": "x:type=y"}},
]


@pytest.mark.parametrize("end", ["close", "half", "oneway"])
@pytest.mark.parametrize("call", GIVEN_UP, ids=lambda call: call["method"])
async def test_an_order_whose_client_has_gone_is_not_carried_out(
    rundir: Path, call: dict[str, Any], end
) -> None:
    """Sent while the daemon had no time for it; one that only says no more, or wants no answer, is."""
    fake = TunableDaemon()
    before = dict(fake.sources)
    async with served(rundir, fake) as (path, service):
        sock = socket.socket(
            socket.AF_UNIX, socket.SOCK_STREAM
        )  # all of it before the server has its next turn
        sock.connect(path)
        sock.sendall(json.dumps(call | {"oneway": end == "oneway"}).encode() + b"\0")
        if end == "half":
            sock.shutdown(socket.SHUT_WR)
        else:
            sock.close()
        with trio.fail_after(HANGS_S):
            async with wire(path) as other:  # accepted after it
                await other.call("ListSources")
            while service.clients > (end == "half"):
                await trio.lowlevel.checkpoint()
            if end == "half":
                with contextlib.closing(sock):
                    await trio.to_thread.run_sync(sock.recv, 4096)
        done = fake.orders or fake.questions or fake.sources != before
        assert bool(done) == (end != "close")


async def test_the_kept_descriptors_are_for_orders(rundir: Path) -> None:
    """A reader above the bound is told; an admin is served; for the owner a silent one goes when hardly any is left."""
    fake, rank = TunableDaemon(), As(Rank.READER)
    entrance = Entrance(Places("connections", 99, 99, 1), lambda: 0)
    async with served(rundir, fake, admin=rank, entrance=entrance) as (path, service):
        with trio.fail_after(HANGS_S):
            async with wire(path) as client:
                refused = await client.call("GetStatus")
                assert refused["error"] == f"{OWN}.Busy"
                assert "the last descriptors are kept" in refused["parameters"]["text"]
            rank.rank = Rank.ADMIN
            async with wire(path) as client:
                assert "error" not in await client.call("Stop", source="radio0")
                async with wire(path) as late:
                    assert (await late.call("GetStatus"))["error"] == f"{OWN}.Busy"
                rank.rank = Rank.OWNER
                async with wire(path) as first, wire(path) as second:
                    assert "error" not in await first.call("Stop", source="radio0")
                    assert "error" not in await second.call("Stop", source="radio0")
                    assert await client.stream.receive_some(1) == b""
                    assert entrance.above == 2
            while service.clients:
                await trio.lowlevel.checkpoint()
            assert (entrance.above, entrance.places.taken) == (0, 0)


# a whole daemon


def test_readers_cannot_take_the_descriptors_of_orders(rundir: Path) -> None:
    """As the daemon's own user, who has no other bound: the crowd is told why, and orders work."""
    config = (
        '[[helper]]\nname = "synthetic"\ncommand = ["builtin:synthetic"]\ntypes = ["synthetic"]\n'
        '[[source]]\ndefinition = "radio0:type=synthetic,rate=10"\n'
    )
    with daemon(rundir, config) as rig, contextlib.ExitStack() as stack:
        pid = rig.wait_running()["pid"]
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (256, 256))
        said = b""
        served = 0
        while b"refused" not in said and served < 256:
            sock = stack.enter_context(rig.connect())
            said = sock.recv(4096)
            served += 1
        assert b"the last descriptors are kept" in said
        idle = []
        for _ in range(200):
            sock = stack.enter_context(rig.connect("control.sock"))
            idle.append(sock)
        for name in ("radio0.sock", "radio0.frames.sock", "radio0.jsonl.sock"):
            assert b"the last descriptors" in stack.enter_context(rig.connect(f"sources/{name}")).recv(4096)
        assert rig.call("GetStatus")["consumers"]
        rig.call("Stop", source="radio0")
        rig.call("Start", source="radio0")
        rig.wait_running()
        assert any("the last descriptors" in row["text"] for row in rig.call("GetMessages")["messages"])
        assert len(os.listdir(f"/proc/{pid}/fd")) < 256


async def test_who_keeps_coming_is_told_without_a_task_each_and_the_owner_is_served(rundir: Path) -> None:
    rank = As(Rank.READER)
    entrance = Entrance(Places("connections", 99, 1))
    async with served(
        rundir, TunableDaemon(), admin=rank, entrance=entrance, limits=Limits(lingering=0, hold_s=0.01)
    ) as (
        path,
        service,
    ):
        with trio.fail_after(HANGS_S):
            async with wire(path) as first:
                assert "error" not in await first.call("ListSources")
                for _ in range(3):
                    late = await trio.open_unix_socket(path)
                    said = b""
                    while data := await late.receive_some(4096):
                        said += data
                    assert b"has 1 connections: end one" in said
                    await late.aclose()
                assert (service.refused, service.clients) == (3, 1)
                rank.rank = Rank.OWNER
                async with wire(path) as owner:
                    assert "error" not in await owner.call("Stop", source="radio0")


async def test_who_ask_much_leave_half_of_the_time_whatever_they_ask_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Of one user or of many; one who asks alone does not wait."""
    for users in ([1, 1, 1, 1], [1, 2, 3, 4], ["::1", "::1", 5, 6]):
        turns = Turns()
        times: list[float] = []

        async def ask(who: int | str, turns: Turns = turns, times: list[float] = times) -> None:
            await turns.wait(who)
            times.append(trio.current_time())
            autojump_clock.jump(0.5 if len(times) == 3 else 0.02)

        began = trio.current_time()
        await ask(users[0])
        assert trio.current_time() - began == pytest.approx(0.02)
        await trio.sleep(1)
        began = trio.current_time()
        times.clear()
        async with trio.open_nursery() as nursery:
            for who in users:
                nursery.start_soon(ask, who)
        found = [moment - began for moment in times]
        assert found == pytest.approx([0, 0.04, 0.08, 0.63])


def reconnecting(path: str) -> socket.socket:
    """A client that asks, and is not told to wait."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    sock.setblocking(False)
    sock.send(b'{"method":"io.helperd.GetLedger"}\0')
    return sock


async def test_who_reconnects_without_pause_waits_for_each_refusal_and_costs_no_task(rundir: Path) -> None:
    """The owner's orders are carried out meanwhile; nobody is told before the time, but for those beyond the bound."""
    rank = As(Rank.READER)
    entrance = Entrance(Places("connections", 99, 1))
    limits = Limits(lingering=0, held=20, hold_s=1e9)
    async with served(rundir, TunableDaemon(), admin=rank, entrance=entrance, limits=limits) as (
        path,
        service,
    ):
        with trio.fail_after(HANGS_S), contextlib.ExitStack() as stack:
            async with wire(path) as first:
                assert "error" not in await first.call("ListSources")
                crowd = [stack.enter_context(reconnecting(path)) for _ in range(20)]
                while service.refused < 20:
                    await trio.lowlevel.checkpoint()
                assert (len(service.crowd), service.clients) == (20, 1)
                for sock in crowd:
                    with pytest.raises(BlockingIOError):
                        sock.recv(1)
                late = await trio.open_unix_socket(path)
                assert b"has 1 connections: end one" in await late.receive_some(4096)
                await late.aclose()
                rank.rank = Rank.OWNER
                async with wire(path) as owner:
                    assert "error" not in await owner.call("Stop", source="radio0")
                assert len(service.crowd) == 20
    assert [sock.fileno() for sock in crowd] == [-1] * 20


async def test_who_closes_and_comes_again_on_each_refusal_is_held_too(rundir: Path) -> None:
    entrance = Entrance(Places("connections", 99, 1))
    limits = Limits(lingering=3, hold_s=1e9)
    async with served(rundir, TunableDaemon(), admin=As(Rank.READER), entrance=entrance, limits=limits) as (
        path,
        service,
    ):
        with trio.fail_after(HANGS_S):
            async with wire(path) as first:
                assert "error" not in await first.call("ListSources")
                for _ in range(3):
                    async with wire(path) as late:
                        assert (await late.call("GetStatus"))["error"] == "io.helperd.Busy"
                async with wire(path):
                    while not service.crowd:
                        await trio.lowlevel.checkpoint()
                    assert service.refused == 4


@pytest.mark.parametrize("each", [1, 99])
async def test_all_uids_together_that_reconnect_are_held_too(rundir: Path, each: int) -> None:
    """Whether it is a user that has all of its places, or everybody that has all there are."""
    entrance = Entrance(Places("connections", 99 if each == 1 else 1, each))
    limits = Limits(lingering=0, hold_s=0.05)
    rank = As(Rank.READER)
    async with served(rundir, TunableDaemon(), admin=rank, entrance=entrance, limits=limits) as (
        path,
        service,
    ):
        with trio.fail_after(HANGS_S):
            async with wire(path) as first:
                assert "error" not in await first.call("ListSources")
                late = await trio.open_unix_socket(path)
                began = trio.current_time()
                assert b"connections" in await late.receive_some(4096)
                assert await late.receive_some(1) == b""
                assert trio.current_time() - began >= 0.01
                await late.aclose()
                assert (service.refused, service.clients, len(service.crowd)) == (1, 1, 0)


async def test_who_has_gone_again_gets_no_task(rundir: Path) -> None:
    """Also with a question on its way: nobody is there for the answer."""
    entrance = Entrance(Places("connections", 99, 99))
    daemon = TunableDaemon()
    async with served(rundir, daemon, admin=As(Rank.READER), entrance=entrance) as (path, service):
        with trio.fail_after(HANGS_S):
            most = 0
            for _ in range(200):
                reconnecting(path).close()
            async with wire(path) as last:  # comes behind them
                assert "error" not in await last.call("ListSources")
                most = service.clients
            assert (most, daemon.snapshots) == (1, 1)


async def test_nobody_is_held_where_descriptors_are_few(rundir: Path) -> None:
    entrance = Entrance(Places("connections", 99, 1), lambda: 6)
    limits = Limits(lingering=0, hold_s=1e9)
    assert (Entrance(entrance.places, lambda: 6).is_plenty(2), entrance.is_plenty(3)) == (True, False)
    assert Entrance(entrance.places).is_plenty(10_000)
    entrance.places.take(os.getuid(), Rank.READER)
    async with served(rundir, TunableDaemon(), admin=As(Rank.READER), entrance=entrance, limits=limits) as (
        path,
        service,
    ):
        with trio.fail_after(HANGS_S):
            late = await trio.open_unix_socket(path)
            assert b"has 1 connections" in await late.receive_some(4096)
            assert len(service.crowd) == 0
            await late.aclose()
