"""The life of a link: open, carry messages in order, end, come back; on asyncio and on uvloop."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raftstore.codec.frames import FrameType
from raftstore.errors import TransportError
from raftstore.transport.certs import issue_node
from raftstore.transport.counters import LinkEvent
from raftstore.transport.dialer import Backoff
from raftstore.transport.ports import Endpoint, LinkLimits
from tests.transport.support import (
    ANY_PORT,
    CLUSTER,
    QUICK,
    Pki,
    Stranger,
    introduce,
    linked,
    make,
    running,
    until,
)

Run = Callable[[Callable[[], Any]], None]
AB = ("a", "b")


def test_three_nodes_link_and_exchange_messages_in_order(run: Run, pki: Pki) -> None:
    """Every node reaches every other over one link per pair, and messages keep their order and their size."""

    async def main() -> None:
        nodes = [make(pki, name, "abc") for name in "abc"]
        async with running(*nodes):
            for one in nodes:
                for other in nodes:
                    if one is not other:
                        await linked(one, other)
            sent = [bytes([n % 256]) * (n * 37 % 5_000) for n in range(400)] + [bytes(3 << 20)]
            for one in nodes:
                for payload in sent:
                    assert all(one.links.send(other.node_id, payload) for other in nodes if other is not one)
            for one in nodes:
                for other in nodes:
                    if one is not other:
                        await until(lambda o=other, i=one: len(o.handler.messages(i.node_id)) == len(sent))
                        assert other.handler.messages(one.node_id) == sent
            assert all(node.links.counters[LinkEvent.CONNECTED] == 2 for node in nodes)

    run(main)


def test_many_messages_of_one_step_are_one_batch(run: Run, pki: Pki) -> None:
    """What is sent in one step leaves in one write, and the receiver is told once when all of it was given."""

    async def main() -> None:
        a, b = (make(pki, name, AB) for name in AB)
        async with running(a, b):
            await linked(a, b)
            for n in range(100):
                a.links.send("b", b"%d" % n)
            a.links.flush()
            await until(lambda: len(b.handler.messages("a")) == 100)
            assert 1 <= b.handler.batches <= 3

    run(main)


def test_both_sides_know_whom_they_talk_to(run: Run, pki: Pki) -> None:
    """The hello's incarnation and freshness, the address and the round trip are there to be read."""

    async def main() -> None:
        a = make(pki, "a", AB, fresh=lambda: True)
        b = make(pki, "b", AB)
        async with running(a, b):
            await linked(a, b)
            info = b.links.peer_info("a")
            assert info is not None
            assert (info.incarnation, info.fresh) == (a.local.incarnation, True)
            assert info.address.startswith("127.0.0.1:")
            assert a.handler.ups()[0].node_id == "b"
            await until(lambda: (a.links.peer_info("b") or info).rtt_us is not None, "a round trip")
            assert b.links.peer_info("c") is None
            assert not b.links.send("c", b"x")

    run(main)


def test_a_restarted_peer_is_linked_again(run: Run, pki: Pki) -> None:
    """A peer that went away and came back elsewhere is dialed again, and the handler saw down before up."""

    async def main() -> None:
        a, b = make(pki, "a", AB), make(pki, "b", AB)
        async with running(a, b):
            await linked(a, b)
            await b.links.close()
            await until(lambda: not a.links.connected())
            assert not a.links.send("b", b"lost")
            again = make(pki, "b", AB)
            async with running(again):
                introduce(a, again)
                await linked(a, again)
                kinds = [kind for kind, _, _ in a.handler.events]
                assert kinds == ["up", "down", "up"]
                assert a.handler.ups()[1].incarnation == again.local.incarnation

    run(main)


def test_a_newer_connection_supersedes_the_former(run: Run, pki: Pki) -> None:
    """The former connection of a peer ends before the newer one begins, and not one of its later frames is given."""

    async def main() -> None:
        b = make(pki, "b", AB)
        async with running(b):
            old = await Stranger.connect(b.links.bound, pki.node("a"))
            old.hello("a", generation=1)
            old.write(FrameType.MESSAGE, b"old 1")
            await until(lambda: b.handler.messages("a") == [b"old 1"])
            new = await Stranger.connect(b.links.bound, pki.node("a"))
            new.hello("a", generation=2)
            new.write(FrameType.MESSAGE, b"new 1")
            old.write(FrameType.MESSAGE, b"old 2")
            await until(lambda: b"new 1" in b.handler.messages("a"))
            old.write(FrameType.MESSAGE, b"old 3")
            await old.ended()
            kinds = [kind for kind, _, what in b.handler.events if what != b"old 2"]
            assert kinds == ["up", "message", "down", "up", "message"]
            assert b.handler.downs() == [LinkEvent.SUPERSEDED]
            after = b.handler.events[b.handler.events.index(("down", "a", LinkEvent.SUPERSEDED)) :]
            assert [what for kind, _, what in after if kind == "message"] == [b"new 1"]
            await old.close()
            await new.close()

    run(main)


def test_frames_already_read_from_a_dropped_connection_are_not_delivered(run: Run, pki: Pki) -> None:
    """A connection dropped in the middle of a batch delivers nothing of the rest of that batch."""

    async def main() -> None:
        b = make(pki, "b", AB)
        async with running(b):
            old = await Stranger.connect(b.links.bound, pki.node("a"))
            old.hello("a")
            await until(lambda: b.links.connected())
            b.handler.on_each = lambda peer, payload: b.links.drop(peer, LinkEvent.MALFORMED_MESSAGE, "bad kind")
            for _ in range(5):
                old.writer.write(b"\0\0\0\2\5x")
            await old.ended()
            assert b.handler.messages("a") == [b"x"]
            assert b.handler.downs() == [LinkEvent.MALFORMED_MESSAGE]
            assert b.links.counters[LinkEvent.MALFORMED_MESSAGE] == 1
            await old.close()

    run(main)


def test_a_late_older_connection_does_not_supersede(run: Run, pki: Pki) -> None:
    """A connection that the same process dialed earlier, and that arrives later, is refused."""

    async def main() -> None:
        b = make(pki, "b", AB)
        async with running(b):
            new = await Stranger.connect(b.links.bound, pki.node("a"))
            new.hello("a", generation=5)
            await until(lambda: b.links.connected())
            old = await Stranger.connect(b.links.bound, pki.node("a"))
            old.hello("a", generation=4)
            frame = await old.frame()
            assert frame is not None
            assert frame[0] == FrameType.REFUSE
            assert b"STALE_CONNECTION" in frame[1]
            assert b.links.connected() == {"a"}
            restarted = await Stranger.connect(b.links.bound, pki.node("a"))
            restarted.hello("a", generation=1, incarnation=8)
            await until(lambda: len(b.handler.ups()) == 2)
            for stranger in (old, new, restarted):
                await stranger.close()

    run(main)


def test_renewed_certificates_serve_the_next_connection(run: Run, tmp_path: Path) -> None:
    """A certificate replaced on disk is what the next connection shows, without a restart."""

    async def main() -> None:
        pki = Pki(tmp_path)
        a, b = make(pki, "a", AB), make(pki, "b", AB)
        async with running(a, b):
            await linked(a, b)
            renewed = issue_node(pki.ca, CLUSTER, "b")
            pki.put("b", renewed)
            pki.put("a", issue_node(pki.ca, CLUSTER, "a"))
            a.links.drop("b", LinkEvent.CLOSED_HERE)
            await until(lambda: len(a.handler.ups()) == 2)
            shown = await Stranger.connect(b.links.bound, pki.node("a"))
            served = shown.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            assert served
            assert ssl.DER_cert_to_PEM_cert(served).encode() == renewed.cert_pem
            await shown.close()

    run(main)


def test_an_isolated_node_is_cut_from_exactly_the_named_peers(run: Run, pki: Pki) -> None:
    """A cut ends the link and keeps it down from either side, spares the others, and heals when it is lifted."""

    async def main() -> None:
        a, b, c = (make(pki, name, "abc") for name in "abc")
        async with running(a, b, c):
            for one, other in ((a, b), (a, c), (b, c)):
                await linked(one, other)
            b.links.isolate({"a", "c"})
            await until(lambda: not b.links.connected() and "b" not in a.links.connected() | c.links.connected())
            tries = b.links.counters[LinkEvent.ISOLATED]
            await until(lambda: b.links.counters[LinkEvent.ISOLATED] > tries + 2, "a keeps trying")
            assert not b.links.connected()
            assert a.links.connected() == {"c"}
            b.links.isolate(())
            await linked(a, b)
            await linked(b, c)

    run(main)


def test_insecure_links_work_on_loopback_and_nowhere_else(run: Run) -> None:
    """Without certificates links run between loopback addresses; any other address is refused before listening."""

    async def main() -> None:
        a, b = make(None, "a", AB), make(None, "b", AB)
        async with running(a, b):
            await linked(a, b)
            a.links.send("b", b"plain")
            await until(lambda: b.handler.messages("a") == [b"plain"])
            with pytest.raises(TransportError, match=r"loopback addresses only, 10\.0\.0\.9:7400 is not"):
                a.links.set_peer_address("b", Endpoint("10.0.0.9", 7400))
        with pytest.raises(TransportError, match="loopback"):
            await make(None, "a", AB, bind=Endpoint("0.0.0.0", 0)).links.start()

    run(main)


def test_a_bound_port_is_named_with_the_remedy(run: Run, pki: Pki) -> None:
    """The message says who, where and why, and the links can still be closed."""

    async def main() -> None:
        a = make(pki, "a", AB)
        async with running(a):
            second = make(pki, "b", AB, bind=a.links.bound)
            with pytest.raises(TransportError, match=rf"^b: cannot listen on {a.links.bound}: address in use \(by"):
                await second.links.start()
            await second.links.close()
        elsewhere = make(pki, "a", AB, bind=Endpoint("192.0.2.1", 0))
        with pytest.raises(TransportError, match="no such address on this machine"):
            await elsewhere.links.start()
        nameless = make(pki, "a", AB, bind=Endpoint("no-such-host.invalid", 0))
        with pytest.raises(TransportError, match=r"cannot listen on no-such-host\.invalid:0: "):
            await nameless.links.start()

    run(main)


def test_host_names_and_ipv6_are_dialed(run: Run, pki: Pki) -> None:
    """A peer is found by name and by IPv6 address."""

    async def main() -> None:
        a = make(pki, "a", AB)
        for bind, host in ((ANY_PORT, "localhost"), (Endpoint("::1", 0), "::1"), (Endpoint("::", 0), "127.0.0.1")):
            b = make(pki, "b", AB, bind=bind)
            try:
                await b.links.start()
            except TransportError as problem:
                if ":" in bind.host and "no such address" in str(problem):
                    continue  # this machine has no IPv6
                raise
            a = make(pki, "a", AB)
            async with running(a):
                a.links.set_peer_address("b", Endpoint(host, b.links.bound.port))
                await linked(a, b)
            await b.links.close()

    run(main)


def test_sending_never_blocks_and_never_raises(run: Run, pki: Pki) -> None:
    """A message over the bound is not sent and costs nothing but a count; before start and after close nothing is."""

    async def main() -> None:
        limits = replace(QUICK, frame_bytes_max=1_000)
        a, b = make(pki, "a", AB, limits=limits), make(pki, "b", AB, limits=limits)
        assert not a.links.send("b", b"early")
        async with running(a, b):
            await linked(a, b)
            assert not a.links.send("b", bytes(1_001))
            assert a.links.counters[LinkEvent.UNSENDABLE] == 1
            assert a.links.send("b", bytes(1_000))
            await until(lambda: b.handler.messages("a") == [bytes(1_000)])
        assert not a.links.send("b", b"late")
        assert a.handler.downs()[-1] in (LinkEvent.CLOSED_HERE, LinkEvent.PEER_CLOSED)

    run(main)


def test_what_was_sent_before_close_still_arrives(run: Run, pki: Pki) -> None:
    """A node that stops gets its last words out to peers that read."""

    async def main() -> None:
        a, b = make(pki, "a", AB), make(pki, "b", AB)
        async with running(a, b):
            await linked(a, b)
            words = [bytes(100_000), b"last"]
            assert all(a.links.send("b", word) for word in words)
            await a.links.close()
            await until(lambda: b.handler.downs() == [LinkEvent.PEER_CLOSED])
            assert b.handler.messages("a") == words

    run(main)


def test_backoff_doubles_to_its_bound_and_starts_anew_after_a_lasting_link() -> None:
    """A peer that is down is dialed ever more rarely; one that flaps too; one that lasted is dialed at once."""
    backoff = Backoff(LinkLimits(backoff_min_ms=50, backoff_max_ms=1_000), random.Random(3))
    bounds = [50, 100, 200, 400, 800, 1_000, 1_000]
    for bound in bounds:
        assert bound / 2 <= backoff.delay_ms(None) <= bound
    assert 500 <= backoff.delay_ms(999) <= 1_000
    assert 25 <= backoff.delay_ms(1_000) <= 50


def test_closing_twice_or_before_start_is_harmless(run: Run, pki: Pki) -> None:
    """A node that fails half-way through its start can always close its links."""

    async def main() -> None:
        a = make(pki, "a", AB)
        await a.links.close()
        await a.links.start()
        await a.links.close()
        await a.links.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)
