from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helperd.control.api import Reader
from helperd.control.call import OWN, SERVICE
from helperd.control.connection import Limits
from helperd.control.interface import load as load_interface
from helperd.control.peer import Admins
from helperd.errors import ConfigError, ConfigRefused, HelperdError
from helperd.places import Entrance, Places, Rank
from tests.control.fake import As, FakeDaemon, TunableDaemon, listen, served, source, wire
from tests.patience import HANGS_S

NOBODY = Admins(frozenset(), "wheel", 77777777)
INTERFACE = load_interface(OWN)

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("GetStatus", {}),
    ("GetStatus", {"source": "radio0"}),
    ("ListSources", {}),
    ("GetSource", {"source": "beacons"}),
    ("Start", {"source": "radio0"}),
    ("Stop", {"source": "radio0"}),
    ("Restart", {"source": "radio0"}),
    ("Pause", {"source": "radio0"}),
    ("Resume", {"source": "radio0"}),
    ("AddSource", {"definition": "new:type=synthetic"}),
    ("RemoveSource", {"source": "beacons"}),
    ("SetChannel", {"source": "radio0", "channel": "11"}),
    ("Hop", {"source": "radio0", "channels": ["1", "6"], "rate": 5}),
    ("Reload", {}),
    ("ListHelpers", {}),
    ("ListDevices", {}),
    ("Probe", {"definition": "x:type=synthetic"}),
    ("GetMessages", {}),
    ("GetLedger", {}),
    ("GetVitals", {}),
    ("GetHealth", {}),
]
CHANGING = {
    "Start", "Stop", "Restart", "Pause", "Resume", "AddSource", "RemoveSource", "SetChannel", "Hop", "Reload",
}  # fmt: skip


def test_the_list_of_calls_above_is_whole() -> None:
    assert {method for method, _ in CALLS} == set(INTERFACE.methods) - {"Stream", "Capture"}


@pytest.mark.parametrize(("method", "parameters"), CALLS, ids=[f"{m}{list(p)}" for m, p in CALLS])
async def test_every_reply_follows_the_interface(
    rundir: Path, method: str, parameters: dict[str, Any]
) -> None:
    daemon = TunableDaemon()
    daemon.post("hello")
    async with served(rundir, daemon) as (path, _), wire(path) as client:
        with trio.fail_after(HANGS_S):
            reply = await client.call(method, **parameters)
    assert "error" not in reply
    assert INTERFACE.wrong(reply["parameters"], INTERFACE.methods[method].outputs) == ""


@pytest.mark.parametrize(("method", "parameters"), CALLS, ids=[f"{m}{list(p)}" for m, p in CALLS])
async def test_only_admins_change_and_others_are_told_who_they_are(
    rundir: Path, method: str, parameters: dict[str, Any]
) -> None:
    daemon = TunableDaemon()
    async with served(rundir, daemon, admin=NOBODY) as (path, _), wire(path) as client:
        with trio.fail_after(HANGS_S):
            reply = await client.call(method, **parameters)
    if method in CHANGING:
        assert reply["error"] == "io.helperd.NotPermitted"
        assert reply["parameters"]["code"] == 77
        assert "group 'wheel'" in reply["parameters"]["text"]
        assert daemon.orders == []
        assert "new" not in daemon.sources
    else:
        assert "error" not in reply


async def test_the_service_describes_itself(rundir: Path) -> None:
    async with served(rundir, FakeDaemon()) as (path, _), wire(path) as client:
        with trio.fail_after(HANGS_S):
            info = await client.call(f"{SERVICE}.GetInfo")
            assert info["parameters"]["interfaces"] == [SERVICE, OWN]
            service = load_interface(SERVICE)
            assert service.wrong(info["parameters"], service.methods["GetInfo"].outputs) == ""
            for name in (SERVICE, OWN):
                reply = await client.call(f"{SERVICE}.GetInterfaceDescription", interface=name)
                assert reply["parameters"]["description"] == load_interface(name).text
            reply = await client.call(f"{SERVICE}.GetInterfaceDescription", interface="org.example")
            assert reply["error"] == f"{SERVICE}.InterfaceNotFound"


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        ({"method": "io.helperd.Explode"}, f"{SERVICE}.MethodNotFound", "Explode"),
        ({"method": "org.example.Ping"}, f"{SERVICE}.InterfaceNotFound", "io.helperd"),
        ({"method": "io.helperd.SetChannel", "parameters": {"source": "radio0", "channel": "1"}},
         f"{SERVICE}.MethodNotImplemented", "SetChannel"),
        ({"method": "io.helperd.Stop"}, f"{SERVICE}.InvalidParameter", "source"),
        ({"method": "io.helperd.Stop", "parameters": {"source": 7}}, f"{SERVICE}.InvalidParameter", "source"),
        ({"method": "io.helperd.Stop", "parameters": {"source": "a\0b"}}, f"{SERVICE}.InvalidParameter", "source"),
        ({"method": "io.helperd.Stop", "parameters": {"source": "\ud800"}}, f"{SERVICE}.InvalidParameter", "source"),
        ({"method": "io.helperd.GetStatus", "parameters": {"sauce": "x"}}, f"{SERVICE}.InvalidParameter", "every_s"),
        ({"method": "io.helperd.GetStatus", "more": True, "parameters": {"every_s": 0.001}},
         f"{SERVICE}.InvalidParameter", "seconds"),
        ({"method": "io.helperd.Probe", "parameters": {"definition": "x"}}, "io.helperd.Failed", "no definition"),
        ({"method": "Stop"}, "io.helperd.BadRequest", "interface"),
        ({"method": 3}, "io.helperd.BadRequest", "method"),
        ({}, "io.helperd.BadRequest", "method"),
        ([1], "io.helperd.BadRequest", "array"),
        ({"method": "io.helperd.GetStatus", "parameters": [1]}, "io.helperd.BadRequest", "array"),
        ({"method": "io.helperd.GetStatus", "more": "yes"}, "io.helperd.BadRequest", "more"),
        ({"method": "io.helperd.GetStatus", "upgrade": True}, "io.helperd.BadRequest", "upgrade"),
        ({"method": "io.helperd.GetStatus", "upgrade": True, "more": True}, "io.helperd.BadRequest", "more"),
        ({"method": "io.helperd.Stream", "upgrade": True}, f"{SERVICE}.MethodNotImplemented", "Stream"),
    ],
)  # fmt: skip
async def test_a_wrong_call_is_told_so_and_the_connection_goes_on(
    rundir: Path, call: Any, error: str, word: str
) -> None:
    async with served(rundir, FakeDaemon()) as (path, _), wire(path) as client:
        with trio.fail_after(HANGS_S):
            await client.send(call)
            reply = await client.message()
            assert reply["error"] == error
            assert word in json.dumps(reply["parameters"])
            words = reply["parameters"].get("io.helperd", reply["parameters"])
            assert set(words) >= {"problem", "text", "code"}
            assert "error" not in await client.call("GetStatus")


async def test_an_unknown_source_gets_the_nearest_name(rundir: Path) -> None:
    async with served(rundir, FakeDaemon()) as (path, _), wire(path) as client:
        with trio.fail_after(HANGS_S):
            reply = await client.call("Stop", source="radio")
    assert reply["error"] == "io.helperd.UnknownSource"
    assert reply["parameters"]["nearest"] == "radio0"
    assert "'radio0'" in reply["parameters"]["text"]


async def test_orders_reach_the_daemon_and_the_reply_is_what_is_true_after(rundir: Path) -> None:
    daemon = FakeDaemon()
    async with served(rundir, daemon) as (path, _), wire(path) as client:
        with trio.fail_after(HANGS_S):
            reply = await client.call("Stop", source="radio0")
            assert reply["parameters"]["source"]["state"] == "down"
            reply = await client.call("Pause", source="beacons")
            assert reply["parameters"]["source"]["paused"] is True
    assert daemon.orders == [("radio0", "stop"), ("beacons", "pause")]


async def test_a_failure_comes_with_its_problem_word_and_exit_code(rundir: Path) -> None:
    daemon = FakeDaemon()
    async with served(rundir, daemon) as (path, _), wire(path) as client:
        with trio.fail_after(HANGS_S):
            daemon.failure = HelperdError("open-refused", "radio0: no such device")
            reply = await client.call("Start", source="radio0")
            assert reply["error"] == "io.helperd.Failed"
            assert reply["parameters"] == {
                "problem": "open-refused",
                "text": "radio0: no such device",
                "code": 1,
            }
            daemon.failure = ConfigRefused([ConfigError("unknown-key", "no key 'x'", file="a.toml", line=3)])
            reply = await client.call("Start", source="radio0")
            assert reply["parameters"]["code"] == 78
            assert "a.toml:3" in reply["parameters"]["text"]


async def test_a_bug_is_told_counted_and_logged_and_ends_nothing(
    rundir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = FakeDaemon()
    daemon.failure = ZeroDivisionError("oops")
    async with served(rundir, daemon) as (path, service), wire(path) as client:
        with trio.fail_after(HANGS_S):
            reply = await client.call("Start", source="radio0")
            assert reply["parameters"]["problem"] == "bug"
            assert "oops" in reply["parameters"]["text"]
            assert service.bugs == 1
            assert "error" not in await client.call("GetStatus")
    assert "ZeroDivisionError" in caplog.text


async def test_upgrade_makes_a_stream_of_the_connection(rundir: Path) -> None:
    async with served(rundir, TunableDaemon()) as (path, service):
        async with wire(path) as client:
            with trio.fail_after(HANGS_S):
                assert (await client.call("Stream"))["error"] == "io.helperd.BadRequest"
                for parameters, word in (
                    ({"sources": ["nobody"]}, "UnknownSource"),
                    ({"format": "x"}, "Invalid"),
                ):
                    await client.send(
                        {"method": "io.helperd.Stream", "parameters": parameters, "upgrade": True}
                    )
                    assert word in (await client.message())["error"]
                parameters = {"sources": ["radio0", "beacons"]}
                await client.send({"method": "io.helperd.Stream", "parameters": parameters, "upgrade": True})
                assert await client.message() == {"parameters": {}}
                text = bytes(client.received)
                while text.count(b"\n") < 2:
                    text += await client.stream.receive_some(100)
                assert text == b"pcapng:beacons\npcapng:radio0\n"
        with trio.fail_after(HANGS_S):
            while service.clients:
                await trio.lowlevel.checkpoint()
        assert service.bugs == 0


async def test_pipelined_calls_are_answered_in_order(rundir: Path) -> None:
    daemon = FakeDaemon()
    async with served(rundir, daemon) as (path, _), wire(path) as client:
        calls = [
            {"method": "io.helperd.GetSource", "parameters": {"source": f"nobody{at}"}} for at in range(200)
        ]
        with trio.fail_after(HANGS_S):
            await client.send(*calls)
            replies = [await client.message() for _ in calls]
    assert [reply["parameters"]["source"] for reply in replies] == [f"nobody{at}" for at in range(200)]


async def test_a_oneway_call_is_carried_out_and_not_answered(rundir: Path) -> None:
    daemon = FakeDaemon()
    async with served(rundir, daemon) as (path, _), wire(path) as client:
        stop = {"method": "io.helperd.Stop", "parameters": {"source": "radio0"}, "oneway": True}
        wrong = {"method": "io.helperd.Stop", "parameters": {"source": "nobody"}, "oneway": True}
        with trio.fail_after(HANGS_S):
            await client.send(stop, wrong, {"method": "io.helperd.ListSources"})
            assert await client.message() == {"parameters": {"sources": ["radio0", "beacons"]}}
    assert daemon.orders == [("radio0", "stop")]


async def test_an_order_is_carried_out_although_the_client_left(rundir: Path) -> None:
    daemon = FakeDaemon()
    daemon.release = trio.Event()
    async with served(rundir, daemon) as (path, service):
        async with wire(path) as client:
            await client.send({"method": "io.helperd.Stop", "parameters": {"source": "radio0"}})
            with trio.fail_after(HANGS_S):
                while service.clients == 0 or not daemon.release.statistics().tasks_waiting:
                    await trio.lowlevel.checkpoint()
        daemon.release.set()
        with trio.fail_after(HANGS_S):
            while not daemon.orders:
                await trio.lowlevel.checkpoint()


async def test_a_stream_promises_the_latest_state_not_every_step(rundir: Path) -> None:
    daemon = FakeDaemon()
    async with served(rundir, daemon) as (path, _), wire(path) as client:
        with trio.fail_after(HANGS_S):
            await client.send({"method": "io.helperd.GetStatus", "more": True})
            first = await client.message()
            assert first["continues"] is True
            assert first["parameters"]["sources"][0]["packets"] == 1000
            for packets in range(2000, 2100):
                daemon.change("radio0", packets=packets)
                await trio.lowlevel.checkpoint()
            count = 0
            while True:
                reply = await client.message()
                count += 1
                if reply["parameters"]["sources"][0]["packets"] == 2099:
                    break
            assert count <= 3


async def test_a_stream_comes_again_without_a_change_when_asked_to(rundir: Path) -> None:
    async with served(rundir, FakeDaemon()) as (path, _), wire(path) as client:
        with trio.fail_after(HANGS_S):
            await client.send(
                {"method": "io.helperd.GetStatus", "more": True, "parameters": {"every_s": 0.1}}
            )
            for _ in range(3):
                reply = await client.message()
                assert INTERFACE.wrong(reply["parameters"], INTERFACE.methods["GetStatus"].outputs) == ""


async def test_a_stream_of_one_source_ends_with_an_error_when_the_source_is_gone(rundir: Path) -> None:
    daemon = FakeDaemon()
    async with served(rundir, daemon) as (path, _), wire(path) as client:
        with trio.fail_after(HANGS_S):
            call = {"method": "io.helperd.GetStatus", "more": True, "parameters": {"source": "radio0"}}
            await client.send(call)
            assert len((await client.message())["parameters"]["sources"]) == 1
            del daemon.sources["radio0"]
            daemon.change("beacons", packets=1)
            assert (await client.message())["error"] == "io.helperd.UnknownSource"
            assert "error" not in await client.call("ListSources")


async def test_messages_are_followed_without_a_gap_or_a_repetition(rundir: Path) -> None:
    daemon = FakeDaemon()
    daemon.post("one")
    async with served(rundir, daemon) as (path, _), wire(path) as client:
        with trio.fail_after(HANGS_S):
            await client.send({"method": "io.helperd.GetMessages", "more": True})
            texts = [m["text"] for m in (await client.message())["parameters"]["messages"]]
            for at in range(50):
                daemon.post(f"m{at}", who="radio0" if at % 2 else "beacons")
                if at % 7 == 0:
                    await trio.lowlevel.checkpoint()
            while texts[-1] != "m49":
                texts += [m["text"] for m in (await client.message())["parameters"]["messages"]]
    assert texts == ["one", *(f"m{at}" for at in range(50))]


async def test_a_message_number_of_an_earlier_daemon_is_no_trap(rundir: Path) -> None:
    daemon = FakeDaemon()
    daemon.post("one")
    async with served(rundir, daemon) as (path, _), wire(path) as client:
        with trio.fail_after(HANGS_S):
            await client.send(
                {"method": "io.helperd.GetMessages", "more": True, "parameters": {"since": 5000}}
            )
            assert (await client.message())["parameters"] == {"messages": [], "last": 1}
            daemon.post("two")
            assert [m["text"] for m in (await client.message())["parameters"]["messages"]] == ["two"]


async def test_one_question_answers_all_who_ask_it_meanwhile(rundir: Path) -> None:
    daemon = FakeDaemon()
    daemon.release = trio.Event()
    replies: list[dict[str, Any]] = []
    async with served(rundir, daemon) as (path, _):

        async def ask() -> None:
            async with wire(path) as client:
                replies.append(await client.call("ListDevices"))

        with trio.fail_after(HANGS_S):
            async with wire(path) as leaver, trio.open_nursery() as nursery:
                await leaver.send({"method": "io.helperd.ListDevices"})
                while not daemon.questions:
                    await trio.lowlevel.checkpoint()
                for _ in range(5):
                    nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked(0.01)
                await leaver.stream.aclose()
                daemon.release.set()
    assert daemon.questions == 1
    assert len(replies) == 5
    assert all(reply["parameters"]["failed"][0]["helper"] == "broken" for reply in replies)


async def test_too_many_questions_at_once_are_refused(rundir: Path) -> None:
    daemon = FakeDaemon()
    daemon.release = trio.Event()
    rank = As(Rank.OWNER)
    async with served(rundir, daemon, admin=rank) as (path, _), trio.open_nursery() as nursery:
        replies: list[dict[str, Any]] = []

        async def ask(at: int) -> None:
            async with wire(path) as client:
                replies.append(await client.call("Probe", definition=f"x{at}:type=y"))

        with trio.fail_after(HANGS_S):
            for at in range(11):
                nursery.start_soon(ask, at)
            while not replies:
                await trio.lowlevel.checkpoint()
            assert [reply["error"] for reply in replies] == ["io.helperd.Busy"]
            replies.clear()
            rank.rank = Rank.READER
            nursery.start_soon(ask, 11)
            while not replies:
                await trio.lowlevel.checkpoint()
            assert [reply["error"] for reply in replies] == ["io.helperd.Busy"]
            daemon.release.set()
            while len(replies) < 11:
                await trio.lowlevel.checkpoint()


# bounds


async def test_what_is_not_json_is_refused_and_ends_the_connection(rundir: Path) -> None:
    async with served(rundir, FakeDaemon()) as (path, _):
        for garbage in (
            b"GET / HTTP/1.1\r\n\r\n\0",
            b"\xff\xfe\0",
            b"\0",
            b"{\0",
            b"[" * 60000 + b"\0",
            b"NaN\0",
        ):
            async with wire(path) as client:
                with trio.fail_after(HANGS_S):
                    await client.send(garbage)
                    assert (await client.message())["error"] == "io.helperd.BadRequest"
                    assert await client.ended()


async def test_ten_megabytes_are_refused_with_a_reason_that_can_be_read(rundir: Path) -> None:
    async with served(rundir, FakeDaemon()) as (path, service), wire(path) as client:
        with trio.fail_after(HANGS_S):
            await client.send(b'{"method":"' + b"x" * (10 << 20) + b'"}\0')
            reply = await client.message()
            assert "65536 bytes" in reply["parameters"]["text"]
            await client.stream.send_eof()
            assert await client.ended()
        assert service.bugs == 0


async def test_a_message_never_finished_is_ended_in_time(rundir: Path) -> None:
    async with served(rundir, FakeDaemon(), limits=Limits(message_s=0.1)) as (path, _), wire(path) as client:
        with trio.fail_after(HANGS_S):
            await client.send(b'{"method":')
            assert "not finished within 0.1 s" in (await client.message())["parameters"]["text"]
            await client.stream.send_eof()
            assert await client.ended()


async def test_a_client_that_stops_reading_is_dropped_and_delays_nobody(rundir: Path) -> None:
    daemon = FakeDaemon(*(f"s{at}" for at in range(200)))
    async with (
        served(rundir, daemon, limits=Limits(send_s=1.0)) as (path, service),
        wire(path) as stuck,
        wire(path) as other,
    ):
        with trio.fail_after(HANGS_S):
            await stuck.send(*[{"method": "io.helperd.GetStatus"}] * 500)
            assert "error" not in await other.call("GetStatus")
            assert service.clients == 2
            answers = 0
            while service.clients > 1:
                assert "error" not in await other.call("GetStatus")
                answers += 1
            assert answers > 2, "it waited for the one that does not read"


async def test_a_client_that_leaves_ends_its_stream(rundir: Path) -> None:
    async with served(rundir, FakeDaemon()) as (path, service):
        async with wire(path) as client:
            with trio.fail_after(HANGS_S):
                await client.send({"method": "io.helperd.GetStatus", "more": True})
                await client.message()
        with trio.fail_after(HANGS_S):
            while service.clients:
                await trio.lowlevel.checkpoint()


async def test_a_client_that_only_stops_sending_still_gets_its_stream(rundir: Path) -> None:
    daemon = FakeDaemon()
    async with served(rundir, daemon) as (path, _), wire(path) as client:
        with trio.fail_after(HANGS_S):
            await client.send({"method": "io.helperd.GetStatus", "more": True})
            await client.stream.send_eof()
            await client.message()
            await trio.testing.wait_all_tasks_blocked(0.01)
            daemon.change("radio0", packets=5)
            assert (await client.message())["parameters"]["sources"][0]["packets"] == 5


async def test_calls_behind_a_stream_cannot_pile_up(rundir: Path) -> None:
    async with served(rundir, FakeDaemon(), limits=Limits(message=1000)) as (path, _), wire(path) as client:
        with trio.fail_after(HANGS_S):
            await client.send({"method": "io.helperd.GetStatus", "more": True})
            await client.message()
            sent = 0
            with trio.move_on_after(0.3):
                while True:
                    await client.send({"method": "io.helperd.ListSources"})
                    sent += 1
            assert sent < 50_000  # the kernel's buffer, and no more


async def test_idle_clients_are_many_and_the_crowd_is_told(rundir: Path) -> None:
    entrance = Entrance(Places("connections", 50, 50, 1))
    rank = As(Rank.READER)
    async with (
        served(rundir, FakeDaemon(), admin=rank, entrance=entrance) as (path, service),
        trio.open_nursery() as nursery,
    ):
        with trio.fail_after(HANGS_S):
            idle = [await trio.open_unix_socket(path)]
            while not service.silent:
                await trio.lowlevel.checkpoint()
            idle += [await trio.open_unix_socket(path) for _ in range(49)]
            while service.clients < 50:
                await trio.lowlevel.checkpoint()
            async with wire(path) as late:
                refused = await late.call("GetStatus")
                assert refused["error"] == "io.helperd.Busy"
                assert "has 50 connections: end one" in refused["parameters"]["text"]
            rank.rank = Rank.ADMIN
            async with wire(path) as late:
                assert "end one" in (await late.call("GetStatus"))["parameters"]["text"]
            rank.rank = Rank.OWNER
            async with wire(path) as first, wire(path) as second, wire(path) as third:
                for one in (first, second, third):  # two places are for the owner; then a silent one goes
                    assert "error" not in await one.call("GetStatus")
                assert (entrance.places.taken, entrance.places.refused) == (52, 2)
                assert await idle[0].receive_some(1) == b""
        for stream in idle:
            await stream.aclose()
        nursery.cancel_scope.cancel()


async def test_a_shortage_of_descriptors_is_waited_out(rundir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = listen(rundir / "x.sock")
    real, failed = listener.accept, 0

    async def accept() -> trio.SocketStream:
        nonlocal failed
        if failed < 2:
            failed += 1
            raise OSError(24, "Too many open files")
        return await real()

    monkeypatch.setattr(listener, "accept", accept)
    from helperd.control.server import serve

    with trio.fail_after(HANGS_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, listener, FakeDaemon())
            async with wire(str(rundir / "x.sock")) as client:
                assert "error" not in await client.call("ListSources")
            nursery.cancel_scope.cancel()
    (rundir / "x.sock").unlink()
    assert failed == 2


async def test_many_askers_share_one_snapshot(rundir: Path) -> None:
    daemon = FakeDaemon()
    async with served(rundir, daemon) as (path, _), wire(path) as client:
        calls = [{"method": "io.helperd.GetStatus"}] * 100
        with trio.fail_after(HANGS_S):
            await client.send(*calls)
            for _ in calls:
                await client.message()
    assert daemon.snapshots < 30


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from([f"io.helperd.{name}" for name in INTERFACE.methods]) | st.text()
LIKELY = st.fixed_dictionaries(
    {},
    optional={
        "method": NAMES,
        "parameters": st.dictionaries(
            st.sampled_from(["source", "every_s", "definition", "since"]) | st.text(), JSON
        )
        | JSON,
        "oneway": st.booleans() | JSON,
        "upgrade": JSON,
    },
)
MESSAGES = st.lists(
    st.binary(max_size=60) | (JSON | LIKELY).map(lambda v: json.dumps(v).encode() + b"\0"), max_size=8
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=MESSAGES)
async def test_whatever_is_sent_is_answered_or_ended_and_nothing_else(
    rundir: Path, messages: list[bytes]
) -> None:
    async with served(rundir, TunableDaemon(), limits=Limits(linger_s=0.05, message=4096)) as (path, service):
        async with wire(path) as client:
            with trio.fail_after(HANGS_S):
                with contextlib.suppress(trio.BrokenResourceError):
                    await client.send(*messages)
                    await client.stream.send_eof()
                with contextlib.suppress(EOFError):
                    while True:
                        assert (await client.message()).keys() <= {"error", "parameters"}
        assert service.bugs == 0


def test_the_fake_daemon_has_the_shape_that_the_interface_promises() -> None:
    assert INTERFACE.wrong(source("x"), INTERFACE.types["Source"]) == ""


async def test_a_definition_that_does_not_open_is_forgotten_again(rundir: Path) -> None:
    daemon = TunableDaemon()
    daemon.failure = HelperdError("open-refused", "new: no such device")
    async with served(rundir, daemon) as (path, _), wire(path) as client:
        with trio.fail_after(HANGS_S):
            reply = await client.call("AddSource", definition="new:type=synthetic")
            assert reply["parameters"]["problem"] == "open-refused"
            assert "new" not in daemon.sources
            for name in ("../up", "UPPER", "a" * 33, ""):
                reply = await client.call("AddSource", definition="new:type=synthetic", name=name)
                assert reply["error"] == f"{SERVICE}.InvalidParameter"


@pytest.mark.parametrize("rate", [0, -1, 1001])
async def test_a_rate_that_no_radio_can_hop_at_is_refused(rundir: Path, rate: int) -> None:
    async with served(rundir, TunableDaemon()) as (path, _), wire(path) as client:
        with trio.fail_after(HANGS_S):
            reply = await client.call("Hop", source="radio0", rate=rate)
            assert reply["error"] == f"{SERVICE}.InvalidParameter"


async def test_health_names_every_source_in_trouble(rundir: Path) -> None:
    daemon = FakeDaemon("a", "b", "c", "d")
    ended = {"kind": "accident", "problem": "killed", "text": "ended by SIGSEGV"}
    daemon.change("b", state="backoff", exit=ended)
    daemon.change("c", verdict="hung", reason="keepalive")
    daemon.change("d", state="down", why="stopped")
    async with served(rundir, daemon) as (path, _), wire(path) as client:
        with trio.fail_after(HANGS_S):
            reply = await client.call("GetHealth")
    assert [(t["source"], t["problem"]) for t in reply["parameters"]["troubles"]] == [
        ("b", "killed"),
        ("c", "keepalive"),
    ]


async def test_a_stream_that_breaks_inside_the_daemon_ends_its_connection_alone(
    rundir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve() -> None:
        raise ZeroDivisionError("oops")

    daemon = TunableDaemon()
    reader = Reader(serve, lambda: None)
    monkeypatch.setattr(daemon, "stream", lambda *_: contextlib.nullcontext(reader))
    async with served(rundir, daemon) as (path, service), wire(path) as client, wire(path) as other:
        with trio.fail_after(HANGS_S):
            await client.send({"method": "io.helperd.Stream", "upgrade": True})
            assert await client.message() == {"parameters": {}}
            assert await client.ended()
            assert "error" not in await other.call("GetStatus")
        assert service.bugs == 1
    assert "ZeroDivisionError" in caplog.text


async def test_a_client_that_is_killed_with_unread_replies_ends_nothing_else(rundir: Path) -> None:
    daemon = FakeDaemon()
    async with served(rundir, daemon) as (path, service), wire(path) as other:
        with trio.fail_after(HANGS_S):
            for _ in range(20):
                async with wire(path) as client:
                    await client.send({"method": "io.helperd.GetStatus", "more": True}, b'{"half')
                    await trio.testing.wait_all_tasks_blocked(0.001)
                daemon.change("radio0", packets=1)
            assert "error" not in await other.call("GetStatus")
            while service.clients > 1:
                await trio.lowlevel.checkpoint()
        assert service.bugs == 0
