"""Comm without workers: what stands on the wire, who is let in, and what is wrong at the start."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amlsched import CommError, NotPicklableError, Plugin, Scheduler, SchedulerNotRunningError
from amlsched.plugins import Comm
from amlsched.plugins._comm import client, server
from amlsched.plugins._comm.client import SocketLink
from amlsched.plugins._comm.server import LOOPBACK, CommServer, outward_address
from amlsched.plugins._comm.wire import (
    FROM_DRIVER,
    FROM_WORKER,
    NUMBER_BYTES,
    PROOF_BYTES,
    Agreement,
    Frame,
    Kind,
    Seal,
    dump,
    packet,
    packets,
)

KEY = b"k" * 32

# ------------------------------------------------------------------------------------------------------------- wire


@given(st.lists(st.binary(max_size=300)), st.lists(st.integers(1, 700)))
def test_packets_are_found_however_the_stream_is_cut(payloads: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(packet, payloads))
    buffer, found = bytearray(), []
    for cut in [*cuts, len(stream)]:
        buffer += stream[:cut]
        stream = stream[cut:]
        found += packets(buffer)
    assert found == payloads
    assert not buffer


def test_packets_are_those_of_the_standard_library() -> None:
    here, there = Pipe()
    with here, there:
        there.send_bytes(b"x" * 20_000)
        buffer = bytearray(os.read(here.fileno(), 30_000))
        assert list(packets(buffer)) == [b"x" * 20_000]
        os.write(there.fileno(), packet(b"abc"))
        assert here.recv_bytes() == b"abc"


def test_a_packet_beyond_two_gigabytes_has_the_long_header() -> None:
    buffer = bytearray(struct.pack("!iQ", -1, 3) + b"abc")
    assert list(packets(buffer)) == [b"abc"]


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ConnectionError, match="-7 bytes"):
        list(packets(bytearray(struct.pack("!i", -7) + b"abc")))


FRAMES = [Frame(Kind.OPEN, 1, b"a"), Frame(Kind.MESSAGE, 2, b""), Frame(Kind.REQUEST, 3, b"c" * 1000)]


def sealed() -> list[bytes]:
    seal = Seal(KEY, FROM_WORKER)
    return [seal.wrap(frame) for frame in FRAMES]


def test_a_sealed_frame_arrives_as_it_was() -> None:
    seal = Seal(KEY, FROM_WORKER)
    assert [seal.unwrap(payload) for payload in sealed()] == FRAMES


@pytest.mark.parametrize(
    "tamper",
    [
        lambda payloads: [payloads[0][:-1] + b"b"],
        lambda payloads: [b"\0" + payloads[0][1:]],
        lambda payloads: [payloads[0][:16] + b"R" + payloads[0][17:]],
        lambda payloads: [payloads[1]],
        lambda payloads: [payloads[0], payloads[0]],
        lambda payloads: [payloads[0], payloads[2]],
        lambda payloads: [b""],
        lambda payloads: [payloads[0][:20]],
    ],
)
def test_a_changed_repeated_or_dropped_packet_is_refused(tamper: Callable[[list[bytes]], list[bytes]]) -> None:
    seal = Seal(KEY, FROM_WORKER)
    *before, last = tamper(sealed())
    assert len([seal.unwrap(payload) for payload in before]) <= 1
    with pytest.raises(ConnectionError, match="modified or injected"):
        seal.unwrap(last)


@pytest.mark.parametrize(("key", "direction"), [(b"x" * 32, FROM_WORKER), (KEY, FROM_DRIVER)])
def test_a_packet_of_another_key_or_direction_is_refused(key: bytes, direction: bytes) -> None:
    with pytest.raises(ConnectionError):
        Seal(key, direction).unwrap(sealed()[0])


def test_a_message_without_a_repr_is_still_named() -> None:
    class Unshown:
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

        def __reduce__(self) -> Any:
            raise TypeError("no pickle")

    with pytest.raises(NotPicklableError, match="the message <a?.*Unshown.*no pickle"):
        dump(Unshown(), "f", "the message")


def test_what_only_cloudpickle_can_send_is_sent() -> None:
    assert pickle.loads(dump(lambda: 7, "f", "the message"))() == 7


# ----------------------------------------------------------------------------------------------------- the listener


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(45):
        while not holds():
            await asyncio.sleep(0.002)


def with_server(body: Callable[[CommServer], Awaitable[None]]) -> list[Any]:
    """Run `body` beside a comm_server, and give the messages that came to the first channel."""
    received: list[Any] = []

    async def main() -> None:
        task = Scheduler.with_sequential().task(takes_comm)
        for event in (Comm.OPEN, Comm.MESSAGE, Comm.CLOSE):
            task.on(event, lambda msg: received.append((str(msg.kind), msg.data)))
        comm_server = CommServer(asyncio.get_running_loop(), task, LOOPBACK)
        channel = comm_server.new_channel()
        try:
            await body(comm_server)
        finally:
            comm_server.close()
            assert not channel.is_open
            await eventually(lambda: not comm_server.peers)

    asyncio.run(main())
    return received


def takes_comm(*, comm: Comm) -> None:
    pass


async def say_hello(comm_server: CommServer, address: tuple[str, int] | None = None) -> None:
    """What a worker does."""

    def worker() -> None:
        link = SocketLink("f", address or comm_server.address, comm_server.key)
        link.send(Frame(Kind.OPEN, 1, pickle.dumps(None)))
        link.send(Frame(Kind.MESSAGE, 1, pickle.dumps("hello")))
        link.send(Frame(Kind.CLOSE, 0, pickle.dumps(None)))
        answer = link.receive(20)
        assert answer is not None
        assert answer.kind is Kind.CLOSED
        link.close()

    await asyncio.to_thread(worker)


HELLO = [("open", None), ("message", "hello"), ("close", None)]


def read_all(peer: socket.socket) -> bytes:
    peer.settimeout(20)
    data = b""
    try:
        while chunk := peer.recv(4096):
            data += chunk
    except ConnectionResetError:
        pass
    return data


def test_a_worker_with_the_key_is_heard() -> None:
    assert with_server(say_hello) == HELLO


def test_a_worker_with_another_key_refuses_the_driver() -> None:
    async def body(comm_server: CommServer) -> None:
        def intrude() -> None:
            with pytest.raises(multiprocessing.AuthenticationError):
                SocketLink("f", comm_server.address, b"x" * 32)

        await asyncio.to_thread(intrude)
        await say_hello(comm_server)

    assert with_server(body) == HELLO


def intrusion(comm_server: CommServer, say: Callable[[bytes, bytes], bytes]) -> bytes:
    """All that a peer gets that sends a number, and then what follows for it from its number and the driver's."""
    with socket.create_connection(comm_server.address) as peer:
        peer.sendall(b"n" * NUMBER_BYTES)
        answer = b""
        while len(answer) < NUMBER_BYTES + PROOF_BYTES:
            answer += peer.recv(NUMBER_BYTES + PROOF_BYTES - len(answer))
        peer.sendall(say(b"n" * NUMBER_BYTES, answer))
        return read_all(peer)


def proof_by_another_key(number: bytes, answer: bytes) -> bytes:
    return Agreement(b"x" * 32, number, answer[:NUMBER_BYTES]).proof_of_worker


def proof_of_the_driver(number: bytes, answer: bytes) -> bytes:
    return answer[NUMBER_BYTES:]


@pytest.mark.parametrize("say", [proof_by_another_key, proof_of_the_driver])
def test_a_peer_without_the_key_is_sent_away_and_stops_nothing(say: Callable[[bytes, bytes], bytes]) -> None:
    async def body(comm_server: CommServer) -> None:
        assert await asyncio.to_thread(intrusion, comm_server, say) == b""
        await say_hello(comm_server)

    assert with_server(body) == HELLO


async def recorded(comm_server: CommServer) -> tuple[bytes, bytes]:
    """What a worker and its driver said to each other; the worker said hello."""
    said: dict[str, bytes] = {}
    with socket.create_server((LOOPBACK, 0)) as relay:

        def pass_on(source: socket.socket, sink: socket.socket, who: str) -> None:
            said[who] = b""
            while chunk := source.recv(65536):
                said[who] += chunk
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)

        def listen() -> None:
            worker, _ = relay.accept()
            with worker, socket.create_connection(comm_server.address) as driver:
                back = threading.Thread(target=pass_on, args=(driver, worker, "driver"))
                back.start()
                pass_on(worker, driver, "worker")
                back.join(20)

        listening = threading.Thread(target=listen)
        listening.start()
        await say_hello(comm_server, relay.getsockname())
        await asyncio.to_thread(listening.join, 20)
    return said["worker"], said["driver"]


def test_what_was_recorded_of_a_connection_opens_no_other() -> None:
    async def body(comm_server: CommServer) -> None:
        worker, driver = await recorded(comm_server)
        rest = worker[NUMBER_BYTES:]

        def repeat() -> bytes:
            with socket.create_connection(comm_server.address) as peer:
                peer.sendall(worker)
                return read_all(peer)

        got = await asyncio.to_thread(repeat)
        assert len(got) == NUMBER_BYTES + PROOF_BYTES
        assert got != driver[: len(got)]

        def say(number: bytes, answer: bytes) -> bytes:  # somebody in between, who has a living worker prove itself
            return Agreement(comm_server.key, number, answer[:NUMBER_BYTES]).proof_of_worker + rest[PROOF_BYTES:]

        assert await asyncio.to_thread(intrusion, comm_server, say) == b""

    assert with_server(body) == HELLO


def test_a_first_message_without_an_end_is_not_taken() -> None:
    async def body(comm_server: CommServer) -> None:
        def flood() -> int:
            sent = 0
            with socket.create_connection(comm_server.address) as peer, pytest.raises(OSError, match="reset|[Bb]roken"):
                for _ in range(10_000):
                    sent += peer.send(b"\x7f" * 100_000)
            return sent

        assert await asyncio.to_thread(flood) < 100_000_000
        await say_hello(comm_server)

    assert with_server(body) == HELLO


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("!i", -1) + b"\xff" * 8,
        packet(b""),
        packet(b"x" * 256),
        b"\0" * 4096,
    ],
)
def test_a_peer_that_sends_garbage_gets_nothing_and_stops_nothing(garbage: bytes) -> None:
    async def body(comm_server: CommServer) -> None:
        def intrude() -> bytes:
            with socket.create_connection(comm_server.address) as peer:
                peer.sendall(garbage)
                peer.shutdown(socket.SHUT_WR)
                return read_all(peer)

        got = await asyncio.to_thread(intrude)
        assert len(got) == (NUMBER_BYTES + PROOF_BYTES if len(garbage) >= NUMBER_BYTES else 0)
        assert comm_server.key not in got
        await say_hello(comm_server)

    assert with_server(body) == HELLO


def test_silent_peers_block_nobody_and_are_driven_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_PROOF_S", 0.3)

    async def body(comm_server: CommServer) -> None:
        peers = [socket.create_connection(comm_server.address) for _ in range(10)]
        await eventually(lambda: len(comm_server._unauthenticated) == 10)
        await say_hello(comm_server)
        for peer in peers:
            assert await asyncio.to_thread(read_all, peer) == b""
            peer.close()
        assert not comm_server._unauthenticated

    assert with_server(body) == HELLO


def test_a_crowd_of_silent_peers_drives_away_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_MOST_UNAUTHENTICATED", 4)
    monkeypatch.setattr(server, "_PATIENCE_S", 0.02)

    async def body(comm_server: CommServer) -> None:
        peers = [socket.create_connection(comm_server.address) for _ in range(20)]
        await say_hello(comm_server)
        assert len(comm_server._unauthenticated) <= 4
        for peer in peers:
            peer.close()

    assert with_server(body) == HELLO


@pytest.mark.parametrize(
    "payload",
    [b"garbage", Seal(b"x" * 32, FROM_WORKER).wrap(FRAMES[0])],
    ids=["garbage", "another key"],
)
def test_bytes_slipped_into_a_connection_are_not_unpickled(payload: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def body(comm_server: CommServer) -> None:
        def slip_in() -> None:
            link = SocketLink("f", comm_server.address, comm_server.key)
            link._connection.send_bytes(payload)
            with pytest.raises(CommError):
                link.receive(20)
            link.close()

        await asyncio.to_thread(slip_in)
        await say_hello(comm_server)

    assert with_server(body) == HELLO
    assert "modified or injected" in caplog.text


def test_a_call_that_is_not_known_is_sent_away(caplog: pytest.LogCaptureFixture) -> None:
    async def body(comm_server: CommServer) -> None:
        def call() -> None:
            link = SocketLink("f", comm_server.address, comm_server.key)
            link.send(Frame(Kind.OPEN, 99, pickle.dumps(None)))
            with pytest.raises(CommError):
                link.receive(20)
            link.close()

        await asyncio.to_thread(call)

    assert with_server(body) == []
    assert "call 99" in caplog.text


def test_a_call_that_runs_again_elsewhere_opens_its_channel_again() -> None:
    async def body(comm_server: CommServer) -> None:
        first = await asyncio.to_thread(SocketLink, "f", comm_server.address, comm_server.key)
        first.send(Frame(Kind.OPEN, 1, pickle.dumps("first")))
        await eventually(lambda: comm_server.channels[1].is_open)
        second = await asyncio.to_thread(SocketLink, "f", comm_server.address, comm_server.key)
        second.send(Frame(Kind.OPEN, 1, pickle.dumps("second")))
        told = await asyncio.to_thread(first.receive, 45)
        assert told is not None
        assert (told.kind, told.words()) == (Kind.ENDED, "the call was retried elsewhere")
        first.close()
        second.close()
        await eventually(lambda: not comm_server.channels[1].is_open)

    assert with_server(body) == [("open", "first"), ("close", None), ("open", "second"), ("close", None)]


@pytest.mark.parametrize("answer", ["made up", "recorded"])
def test_a_worker_says_nothing_to_a_driver_without_the_key(answer: str) -> None:
    made_up = b"x" * (NUMBER_BYTES + PROOF_BYTES)
    number = b"d" * NUMBER_BYTES
    said = made_up if answer == "made up" else number + Agreement(KEY, b"other" * 8, number).proof_of_driver
    heard: list[bytes] = []
    with socket.create_server((LOOPBACK, 0)) as listening:

        def pretend() -> None:
            peer, _ = listening.accept()
            with peer:
                heard.append(peer.recv(65536))
                peer.sendall(said)
                heard.append(read_all(peer))

        thread = threading.Thread(target=pretend)
        thread.start()
        with pytest.raises(multiprocessing.AuthenticationError):
            SocketLink("f", listening.getsockname(), KEY)
        thread.join(20)
        assert not thread.is_alive()
    assert [len(each) for each in heard] == [NUMBER_BYTES, 0]


def test_a_worker_does_not_wait_for_ever_for_a_driver_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_PROOF_S", 0.2)
    began = time.monotonic()
    with socket.create_server((LOOPBACK, 0)) as listening, pytest.raises(TimeoutError):
        SocketLink("f", listening.getsockname(), KEY)
    assert time.monotonic() - began < 20


def test_a_worker_that_was_driven_away_comes_again() -> None:
    async def body(comm_server: CommServer) -> None:
        drive_away = comm_server._accept
        comm_server.loop.remove_reader(comm_server._listening)

        def drive_first_away() -> None:
            comm_server._listening.accept()[0].close()
            comm_server.loop.add_reader(comm_server._listening, drive_away)

        comm_server.loop.add_reader(comm_server._listening, drive_first_away)
        await say_hello(comm_server)

    assert with_server(body) == HELLO


def test_a_driver_that_is_gone_is_an_error_that_says_where_it_was() -> None:
    with socket.create_server((LOOPBACK, 0)) as listening:
        address = listening.getsockname()[:2]
    channel = FakeChannel()
    comm = pickle.loads(pickle.dumps(Comm("f", address, KEY, channel)))  # type: ignore[arg-type]
    with pytest.raises(CommError, match=rf"f: the driver cannot be reached at 127.0.0.1:{address[1]}"):
        comm.send(1)


class FakeChannel:
    number = 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_worker_keeps_no_connection_of_the_driver_open() -> None:
    async def body(comm_server: CommServer) -> None:
        stranger = socket.create_connection(comm_server.address)
        await eventually(lambda: len(comm_server._unauthenticated) == 1)
        link = await asyncio.to_thread(SocketLink, "f", comm_server.address, comm_server.key)
        await eventually(lambda: len(comm_server.peers) == 2 and len(comm_server._unauthenticated) == 1)
        ours = [comm_server._listening, *comm_server.peers.values()]
        child = os.fork()
        if child == 0:
            os._exit(0 if [s.fileno() for s in ours] == [-1, -1, -1] else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert -1 not in [s.fileno() for s in ours]
        link.close()
        stranger.close()
        await say_hello(comm_server)

    assert with_server(body) == HELLO


def test_the_listener_is_on_loopback_unless_workers_are_elsewhere() -> None:
    async def main(host: str) -> str:
        comm_server = CommServer(asyncio.get_running_loop(), Scheduler.with_sequential().task(takes_comm), host)
        comm_server.close()
        return comm_server.address[0]

    assert asyncio.run(main(LOOPBACK)) == "127.0.0.1"
    assert asyncio.run(main(outward_address())) == outward_address()


@pytest.mark.parametrize(
    ("host", "remote", "driver_host", "expected"),
    [
        (None, False, None, LOOPBACK),
        (None, False, "127.0.0.3", LOOPBACK),
        (None, True, "127.0.0.3", "127.0.0.3"),
        (None, True, None, outward_address()),
        ("127.0.0.2", True, "127.0.0.3", "127.0.0.2"),
        ("127.0.0.2", False, None, "127.0.0.2"),
    ],
)
def test_the_address_is_the_one_given_or_the_executors(
    host: str | None, remote: bool, driver_host: str | None, expected: str
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from amlsched import Capabilities

    with ThreadPoolExecutor(1) as executor:
        executor.capabilities = Capabilities(remote=remote)  # type: ignore[attr-defined]
        if driver_host is not None:
            executor.driver_host = driver_host  # type: ignore[attr-defined]
        scheduler = Scheduler(executor)
        task = scheduler.task(says_address, plugins=Comm.Plugin(host=host))
        results: list[Any] = []
        task.on_result(lambda _, result: results.append(result))
        scheduler.on_start(lambda: task.submit())
        scheduler.run()
    assert results == [expected]


def says_address(*, comm: Comm) -> str:
    comm.send("reached")
    return comm._address[0]


# ------------------------------------------------------------------------------------------------------- bad input


def no_comm(x: int) -> None:
    pass


def positional_comm(comm: Comm, /) -> None:
    pass


def any_keyword(**kwargs: Any) -> list[str]:
    return sorted(kwargs)


@pytest.mark.parametrize("function", [no_comm, positional_comm])
def test_a_function_without_the_parameter_is_refused_at_once(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"passes the keyword 'comm', which the function does not accept"):
        Scheduler.with_sequential().task(function, plugins=Comm.Plugin())


def test_a_function_that_takes_any_keyword_gets_it_by_the_name_asked_for() -> None:
    scheduler = Scheduler.with_sequential()
    task = scheduler.task(any_keyword, plugins=Comm.Plugin(parameter_name="channel"))
    results: list[Any] = []
    task.on_result(lambda _, result: results.append(result))
    scheduler.on_start(lambda: task.submit(a=1))
    scheduler.run()
    assert results == [["a", "channel"]]


def test_the_parameter_cannot_be_given_by_the_call() -> None:
    scheduler = Scheduler.with_sequential()
    task = scheduler.task(takes_comm, plugins=Comm.Plugin())
    scheduler.on_start(lambda: task.submit(comm=1))
    with pytest.raises(ValueError, match="takes_comm: Comm.Plugin provides the argument 'comm'"):
        scheduler.run()


def test_a_submission_outside_a_run_opens_nothing() -> None:
    plugin = Comm.Plugin()
    task = Scheduler.with_threads(1).task(takes_comm, plugins=plugin)
    with pytest.raises(SchedulerNotRunningError):
        task.submit()
    assert plugin._server is None


class Refuse(Plugin):
    name = "refuse"

    def pre_submit(self, fn: Any, *args: Any, **kwargs: Any) -> None:
        return None


def test_a_call_that_another_plugin_refuses_leaves_nothing() -> None:
    scheduler = Scheduler.with_threads(1)
    plugin = Comm.Plugin()
    task = scheduler.task(takes_comm, plugins=[plugin, Refuse()])
    seen: list[Any] = []

    @scheduler.on_start
    def start() -> None:
        assert task.submit() is None
        assert plugin._server is not None
        seen.append(len(plugin._server.channels))

    scheduler.run()
    assert seen == [0]


def sees_the_key(*, comm: Comm) -> list[str]:
    """Where users of this machine might see it."""
    files = [Path(f"/proc/{pid}/{name}") for pid in (os.getpid(), os.getppid()) for name in ("environ", "cmdline")]
    shown = {str(file): file.read_bytes() for file in files} | {"repr": repr(comm).encode()}
    return [where for where, text in shown.items() if comm._key in text or comm._key.hex().encode() in text]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_the_key_is_in_no_environment_command_line_or_repr() -> None:
    seen: list[list[str]] = []
    scheduler = Scheduler.with_processes(1)
    task = scheduler.task(sees_the_key, plugins=Comm.Plugin())
    task.on_result(lambda _, places: seen.append(places))
    scheduler.on_start(task.submit)
    scheduler.run()
    assert seen == [[]]


def test_the_events_have_amltks_names() -> None:
    task = Scheduler.with_sequential().task(takes_comm, plugins=Comm.Plugin())
    assert {"comm-open", "comm-message", "comm-request", "comm-close"} <= set(task.events)
    assert (Comm.OPEN, Comm.MESSAGE, Comm.REQUEST, Comm.CLOSE) == (
        "comm-open",
        "comm-message",
        "comm-request",
        "comm-close",
    )
