"""Frozen, cut off, killed and stopped processes: who owns a session stays beyond doubt, and refusals come fast."""

import asyncio
import json
import socket
import time

from real_waiting import WAIT_S, binding, created, failed_over, outcome_of, until

from raftstore.client.reading import op_id_from
from raftstore.types import SessionState

REFUSED_WITHIN_MS = 250  # no I/O is involved, but this process and that one wait for the same processors
COMMITS_AGAIN_WITHIN_S = 10.0


async def no_quorum(client):
    """Returns once the node knows that it has no majority."""

    async def noticed():
        return not (await client.status())["quorum"]

    await until("the loss of the quorum is noticed", noticed)


def test_a_stopped_node_says_goodbye_and_its_sessions_can_be_taken_at_once(cluster):
    """SIGTERM: the service manager is told, exit status 0, and a failover need not wait for any lease."""
    path = cluster.directory / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(WAIT_S)
        assert cluster.stop("vpn-1") == 0
        cluster.start("vpn-1", env={"NOTIFY_SOCKET": str(path)})
        assert manager.recv(100) == b"READY=1"

        async def main():
            async with cluster.connect() as nodes:
                s = await created(nodes["vpn-1"], "left-behind")
                assert await asyncio.to_thread(cluster.stop, "vpn-1") == 0
                taken, refusals = await failed_over(nodes["vpn-2"], s)
                assert (taken.owner, taken.epoch, refusals) == ("vpn-2", 2, 0)
                cluster.start("vpn-1")
                await cluster.ready(nodes["vpn-1"], "vpn-1")
                assert not await nodes["vpn-1"].owns("left-behind")

        asyncio.run(main())
        assert manager.recv(100) == b"STOPPING=1"
    assert "Traceback" not in cluster.log("vpn-1")


def test_a_minority_refuses_at_once_and_owns_nothing_after_its_lease(cluster):
    """Two of three frozen: NO_QUORUM in milliseconds, owns() ends with the lease, the refused op never happened."""

    async def main():
        async with cluster.connect() as nodes:
            alone = await cluster.leader(nodes)  # the hardest case: it was sure of itself
            others = [n for n in cluster.node_ids if n != alone]
            s = await created(nodes[alone], "islander")
            assert await nodes[alone].owns("islander", s.epoch)
            cluster.freeze(*others)
            await no_quorum(nodes[alone])
            for _ in range(5):
                refused, took_ms = await outcome_of(
                    nodes[alone].reattach("islander", expected_version=1, binding=binding("t2"))
                )
                assert refused == "NO_QUORUM" and took_ms < REFUSED_WITHIN_MS

            async def fenced():
                return not await nodes[alone].owns("islander")

            await until("the lease runs out", fenced)
            assert (await nodes[alone].status())["lease_remaining_ms"] == 0
            by_hand, status = await asyncio.gather(
                cluster.cli("session", "detach", "islander", "--expected-version", "1", "--node", alone, "-o", "json"),
                cluster.cli("status", "--node", alone, "-o", "json"),
            )
            assert (by_hand.returncode, json.loads(by_hand.stdout)["reason"]) == (3, "NO_QUORUM"), by_hand
            assert status.returncode == 3 and json.loads(status.stdout)["nodes"][0]["quorum"] is False, status
            cluster.thaw(*others)
            for node_id in cluster.node_ids:
                await cluster.ready(nodes[node_id], node_id)
            assert [await n.get("islander") for n in nodes.values()] == [s] * 3
            again = await nodes[alone].reattach("islander", expected_version=1, binding=binding("t3"))
            assert again.state_version == 2
            await cluster.audit_settled()
            events = cluster.audit_events(alone, "islander")
            assert [e["state_version"] for e in events] == [1, 2], events

    asyncio.run(main())


def test_an_op_without_an_answer_is_unknown_and_its_fate_can_be_asked(cluster):
    """Proposed, then the followers freeze: 504 with an op id; healed, what the node says of it is what happened."""

    async def main():
        async with cluster.connect() as nodes:
            leader = await cluster.leader(nodes)
            others = [n for n in cluster.node_ids if n != leader]
            await created(nodes[leader], "limbo")
            body = {"expected_version": 1, "binding": binding("t2")._asdict(), "timeout_ms": 150}
            async with cluster.http(leader) as http:
                cluster.freeze(*others)
                async with http.post("/v1/sessions/limbo/reattach", json=body) as answer:
                    said = await answer.json()
            assert (answer.status, said["outcome"]) == (504, "unknown"), said
            cluster.thaw(*others)
            for node_id in cluster.node_ids:
                await cluster.ready(nodes[node_id], node_id)
            op_id = op_id_from(said["op_id"])

            async def decided():
                fate = await nodes[leader].outcome(op_id)
                return fate if fate["outcome"] != "unknown" else None

            fate = await until("the fate of the op is decided", decided)

            async def as_told():
                seen = await nodes[others[0]].get("limbo")
                if fate["outcome"] == "committed":  # nobody was told of this binding: it is not kept
                    return (seen.state_version, seen.state, seen.reason) == (3, SessionState.RECOVERING, "LATE_COMMIT")
                return (seen.state_version, fate["reason"]) == (1, "REQUEST_EXPIRED")

            await until(f"the session is as it was told: {fate}", as_told)

    asyncio.run(main())


def test_while_a_leader_is_cut_off_no_session_has_two_owners(cluster):
    """The majority takes its session over after its lease; asked in turn, the two never both say that they own it."""

    async def main():
        async with cluster.connect() as nodes:
            old = await cluster.leader(nodes)
            new, third = (n for n in cluster.node_ids if n != old)
            s = await created(nodes[old], "contested")
            seen = []  # (old, new, old again) in the order of asking
            watching = True

            async def watch():
                while watching:
                    one, two = await nodes[old].owns("contested"), await nodes[new].owns("contested")
                    seen.append((one, two, await nodes[old].owns("contested")))

            watcher = asyncio.create_task(watch())
            await nodes[old].isolate([new, third])
            taken, refusals = await failed_over(nodes[new], s)
            assert refusals > 0 and (taken.owner, taken.epoch) == (new, 2)
            await nodes[old].isolate([])
            await cluster.ready(nodes[old], old)
            watching = False
            await watcher
            assert (True, True, True) not in seen and (True, False, True) in seen
            assert await nodes[new].owns("contested", 2) and not await nodes[old].owns("contested")
            await cluster.audit_settled()
            assert cluster.audit_history(old, "contested") == [(old, 1, 1), (new, 2, 2)]

    asyncio.run(main())


def test_an_owner_that_was_frozen_wakes_up_owning_nothing(cluster):
    """Frozen beyond its lease, its session taken over: the first answers after SIGCONT say no, and it stays so."""

    async def main():
        async with cluster.connect() as nodes:
            s = await created(nodes["vpn-2"], "sleeper")
            assert await nodes["vpn-2"].owns("sleeper")
            cluster.freeze("vpn-2")
            taken, refusals = await failed_over(nodes["vpn-1"], s)
            assert refusals > 0 and (taken.owner, taken.epoch) == ("vpn-1", 2)
            body = {"expected_version": 1, "binding": binding("t9")._asdict()}
            asked = [cluster.ask_ahead("vpn-2", "GET", "/v1/sessions/sleeper/owns") for _ in range(20)]
            late = cluster.ask_ahead("vpn-2", "POST", "/v1/sessions/sleeper/reattach", body)
            cluster.thaw("vpn-2")  # the questions wait in its sockets: nothing that it says comes before the answers
            for answer in asked:
                assert await asyncio.to_thread(answer) == (200, {"owns": False, "epoch": None})
            status, said = await asyncio.to_thread(late)
            assert status in (409, 503) and said["outcome"] in ("rejected", "unavailable"), said
            await cluster.ready(nodes["vpn-2"], "vpn-2")
            assert await nodes["vpn-1"].owns("sleeper", 2) and not await nodes["vpn-2"].owns("sleeper")
            await cluster.audit_settled()
            assert cluster.audit_history("vpn-2", "sleeper") == [("vpn-2", 1, 1), ("vpn-1", 2, 2)]

    asyncio.run(main())


def test_a_node_restarted_while_cut_off_refuses_until_it_is_healed(cluster):
    """Killed and started again behind a cut: alive but not ready, NO_QUORUM; the others serve; healed, it does too."""

    async def main():
        async with cluster.connect() as nodes, cluster.http("vpn-3") as http:
            await created(nodes["vpn-3"], "cut-off")
            for other in ("vpn-1", "vpn-2"):
                await nodes[other].isolate(["vpn-3"])
            cluster.kill("vpn-3")
            cluster.start("vpn-3")

            async def refuses():
                name, _ = await outcome_of(nodes["vpn-3"].create("from-the-island", binding=binding()))
                return name == "NO_QUORUM"

            await until("vpn-3 is up and refuses", refuses)
            async with http.get("/livez") as live, http.get("/readyz?verbose") as ready:
                assert (live.status, ready.status) == (200, 503), (await live.text(), await ready.text())
                assert "[-]quorum" in await ready.text()
            await created(nodes["vpn-1"], "mainland")
            for other in ("vpn-1", "vpn-2"):
                await nodes[other].isolate([])
            await cluster.ready(nodes["vpn-3"], "vpn-3")
            assert (await nodes["vpn-3"].get("mainland")).owner == "vpn-1"
            await created(nodes["vpn-3"], "from-the-island")

    asyncio.run(main())


def test_after_the_leader_is_killed_the_others_commit_again(cluster):
    """kill -9 of the leader: another one leads, and a new session is committed within seconds."""

    async def main():
        async with cluster.connect() as nodes:
            leader = await cluster.leader(nodes)
            left = [n for n in cluster.node_ids if n != leader]
            begun = time.monotonic()
            cluster.kill(leader)
            await created(nodes[left[0]], "next-reign")
            assert time.monotonic() - begun < COMMITS_AGAIN_WITHIN_S
            assert await cluster.leader(nodes, left) != leader
            cluster.start(leader)
            await cluster.ready(nodes[leader], leader)
            assert (await nodes[leader].get("next-reign")).state_version == 1

    asyncio.run(main())


def test_after_all_that_the_audit_files_are_whole_and_equal(cluster):
    """Every fault above behind them, the files of the three nodes verify from the first event, with equal heads."""

    async def main():
        reports = await cluster.audit_settled()
        assert all(r.first == 1 and not r.gaps for r in reports) and len({r.head for r in reports}) == 1
        async with cluster.connect() as nodes:
            status = [await n.status() for n in nodes.values()]
        assert all(s["stopped"] is None for s in status)

    asyncio.run(main())
