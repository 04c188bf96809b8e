"""Three real nodes, asked over their HTTP APIs and by the command line: what they answer, end to end."""

import asyncio
import json

from real_waiting import binding, created, outcome_of, until

from raftstore.errors import Rejected
from raftstore.types import Reason, SessionState

BIND = {"transport_id": "t1", "proto": "udp", "remote": "198.51.100.7:51820"}


def test_a_session_lives_through_every_transition_at_the_nodes_that_own_it(cluster):
    """Created at one node, migrated to another, which resumes it: versions rise by one each, the epoch once."""

    async def main():
        async with cluster.connect() as nodes:
            s = await created(nodes["vpn-1"], "life")
            assert (s.owner, s.epoch, s.state_version, s.state) == ("vpn-1", 1, 1, SessionState.ATTACHED)
            s = await nodes["vpn-1"].reattach("life", expected_version=1, binding=binding("t2"), nonce=7)
            s = await nodes["vpn-1"].detach("life", expected_version=2, reason="NO_DELIVERY")
            assert (s.state, s.state_version, s.binding) == (SessionState.RECOVERING, 3, None)
            s = await nodes["vpn-1"].renew("life", expected_version=3, ttl_ms=60_000)
            s = await nodes["vpn-1"].migrate("life", expected_version=4, to="vpn-2")
            assert (s.owner, s.epoch, s.state_version) == ("vpn-2", 2, 6)

            async def resumed():  # the process resumes by itself, without a binding
                seen = await nodes["vpn-3"].get("life")
                return seen if seen.state is SessionState.RECOVERING else None

            s = await until("vpn-2 resumes", resumed)
            assert (s.owner, s.epoch, s.state_version) == ("vpn-2", 2, 7)
            s = await nodes["vpn-2"].reattach("life", expected_version=7, binding=binding("t3"))
            assert await nodes["vpn-2"].owns("life", epoch=2)
            assert not await nodes["vpn-1"].owns("life") and not await nodes["vpn-2"].owns("life", epoch=1)
            s = await nodes["vpn-2"].terminate("life", expected_version=8)
            assert (s.state, s.state_version) == (SessionState.TERMINATED, 9)
            assert (await outcome_of(nodes["vpn-3"].create("life")))[0] == "SESSION_TERMINATED"

    asyncio.run(main())


def test_of_many_nodes_that_want_the_same_session_one_gets_it(cluster):
    """Creates and reattaches raced by all nodes: one wins each, the others learn who owns it, at which version."""

    async def main():
        async with cluster.connect() as nodes:
            for number in range(10):
                name = f"race-{number}"
                tries = await asyncio.gather(
                    *(n.create(name, binding=binding()) for n in nodes.values()), return_exceptions=True
                )
                won = [t for t in tries if not isinstance(t, Exception)]
                assert len(won) == 1 and [t.reason for t in tries if t is not won[0]] == [Reason.SESSION_EXISTS] * 2
                tries = await asyncio.gather(
                    *(n.reattach(name, expected_version=1, binding=binding("t2")) for n in nodes.values()),
                    return_exceptions=True,
                )
                lost = [t for t in tries if isinstance(t, Rejected)]
                assert len(lost) == 2 and {t.reason for t in lost} == {Reason.OWNERSHIP_CONFLICT}
                assert {(t.session.owner, t.session.epoch) for t in lost} == {(won[0].owner, 1)}

    asyncio.run(main())


def test_a_failover_from_a_live_owner_is_refused(cluster):
    """While the owner's lease runs nobody takes its session, and the refusal is one audit event."""

    async def main():
        async with cluster.connect() as nodes:
            s = await created(nodes["vpn-2"], "alive")
            name, _ = await outcome_of(nodes["vpn-1"].failover("alive", expected_version=1, binding=binding()))
            assert name == "OWNER_STILL_LIVE"
            assert await nodes["vpn-1"].get("alive") == s and await nodes["vpn-2"].owns("alive")

            async def written():
                return len(cluster.audit_events("vpn-3", "alive")) == 2

            await until("both events are in the files", written)
            assert cluster.audit_events("vpn-3", "alive")[1]["reason"] == "OWNER_STILL_LIVE"

    asyncio.run(main())


BAD_REQUESTS = [
    ("create", "%01", {}, 400, "session_id"),
    ("create", "", {}, 400, "session_id"),
    ("create", "x" * 65, {}, 400, "session_id"),
    ("create", "bad", {"ttl_ms": 0}, 400, "ttl_ms"),
    ("create", "bad", {"ttl_ms": 604_800_001}, 400, "ttl_ms"),
    ("create", "bad", {"ttl": 5}, 400, "ttl"),
    ("reattach", "bad", {"expected_version": -1, "binding": BIND}, 400, "expected_version"),
    ("reattach", "bad", {"expected_version": 0, "binding": BIND}, 400, "expected_version"),
    ("reattach", "bad", {"expected_version": 1 << 70, "binding": BIND}, 400, "expected_version"),
    ("reattach", "bad", {"expected_version": "1", "binding": BIND}, 400, "expected_version"),
    ("reattach", "bad", {"expected_version": 1.0, "binding": BIND}, 400, "expected_version"),
    ("migrate", "bad", {"expected_version": 1, "to": "vpn-9"}, 400, "to"),
    ("create", "bad", b'{"ttl_ms": 5', 400, "body"),
    ("create", "bad", b'{"policy": "\xff"}', 400, "body"),
    ("create", "bad", b"[" * 60_000, 400, "body"),
    ("create", "bad", b" " * 70_000, 413, "body"),
]


def test_bad_input_is_refused_by_name_and_changes_nothing(cluster):
    """Ids, versions, TTLs, targets and bodies outside their bounds: 400 (413 when too long) with the field."""

    async def main():
        async with cluster.http("vpn-1") as http:
            for op, session_id, body, status, field in BAD_REQUESTS:
                data = body if isinstance(body, bytes) else json.dumps(body)
                async with http.post(f"/v1/sessions/{session_id}/{op}", data=data) as answer:
                    said = await answer.json()
                    assert (answer.status, said["field"]) == (status, field), (op, body, said)
            async with http.get("/v1/sessions/bad") as answer:
                assert (answer.status, (await answer.json())["reason"]) == (404, "SESSION_NOT_FOUND")

    asyncio.run(main())


def test_ops_that_the_actor_may_not_do_are_rejected_with_409(cluster):
    """Another node's session, a stale version, a resume by the wrong node, a migration to oneself: no, and why."""

    async def main():
        async with cluster.connect() as nodes, cluster.http("vpn-3") as other, cluster.http("vpn-1") as owner:
            await created(nodes["vpn-1"], "mine")
            cases = [
                (other, "detach", {"expected_version": 1}, "OWNERSHIP_CONFLICT"),
                (other, "resume", {"expected_version": 1}, "OWNERSHIP_CONFLICT"),
                (owner, "detach", {"expected_version": 2}, "VERSION_MISMATCH"),
                (owner, "resume", {"expected_version": 1}, "INVALID_TRANSITION"),
                (owner, "migrate", {"expected_version": 1, "to": "vpn-1"}, "INVALID_TRANSITION"),
            ]
            for http, op, body, reason in cases:
                async with http.post(f"/v1/sessions/mine/{op}", json=body) as answer:
                    said = await answer.json()
                    assert (answer.status, said["outcome"], said["reason"]) == (409, "rejected", reason), (op, said)
                    assert said["session"]["state_version"] == 1
            async with other.post("/v1/sessions/nobody/renew", json={"expected_version": 1, "ttl_ms": 5}) as answer:
                assert (answer.status, (await answer.json())["reason"]) == (404, "SESSION_NOT_FOUND")

    asyncio.run(main())


def test_callers_that_hang_up_halfway_leave_a_node_that_serves(cluster):
    """Half a request, then the end of the connection, many times: the node goes on answering."""

    async def main():
        path = f"{cluster.directory}/run/vpn-1.sock"
        for number in range(50):
            _, writer = await asyncio.open_unix_connection(path)
            writer.write(b"POST /v1/sessions/half-%d/create HTTP/1.1\r\nContent-Length: 100\r\n\r\n{" % number)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        async with cluster.connect() as nodes:
            await created(nodes["vpn-1"], "after-the-rude")

            async def none_came_in():
                listed = await nodes["vpn-1"].list_sessions(limit=1000)
                return not any(s.session_id.startswith("half-") for s in listed)

            assert await none_came_in()

    asyncio.run(main())


def test_leadership_goes_where_it_is_sent(cluster):
    """A transfer ends with the chosen node leading, and the cluster committing."""

    async def main():
        async with cluster.connect() as nodes:
            before = await cluster.leader(nodes)
            chosen = next(n for n in cluster.node_ids if n != before)
            moved = await cluster.cli("leader", "transfer", "--to", chosen)
            assert (moved.returncode, moved.stdout) == (0, f"{chosen} leads\n"), moved.stderr
            assert await cluster.leader(nodes) == chosen
            await created(nodes[before], "after-the-transfer")

    asyncio.run(main())


def test_the_command_line_says_what_happened_by_exit_status(cluster):
    """0 for done, 4 for rejected, 2 for bad input; JSON on stdout for programs, one line on stderr for people."""

    async def main():
        done, twice, bad, status = await asyncio.gather(
            cluster.cli("session", "create", "by-hand", "--node", "vpn-3", "-o", "json"),
            cluster.cli("session", "terminate", "never-made", "--expected-version", "1", "-o", "json"),
            cluster.cli("session", "get", "x" * 65),
            cluster.cli("status", "-o", "json"),
        )
        assert done.returncode == 0 and json.loads(done.stdout)["session"]["owner"] == "vpn-3", done
        assert twice.returncode == 4 and json.loads(twice.stdout)["reason"] == "SESSION_NOT_FOUND", twice
        assert bad.returncode == 2 and "Traceback" not in bad.stderr, bad
        nodes = json.loads(status.stdout)["nodes"]
        assert status.returncode == 0 and [n["node"] for n in nodes] == cluster.node_ids
        assert [n["role"] for n in nodes].count("leader") == 1 and all(n["quorum"] for n in nodes)

    asyncio.run(main())


def test_a_drained_node_has_no_session_and_takes_none(cluster):
    """The drain moves every session to nodes that resume it; a create there is refused until it is restarted."""

    async def main():
        async with cluster.connect() as nodes:
            names = [f"guest-{i}" for i in range(20)]
            await asyncio.gather(*(created(nodes["vpn-3"], n) for n in names))
            drained = await cluster.cli("drain", "--node", "vpn-3", "-o", "json")
            assert drained.returncode == 0 and json.loads(drained.stdout)["moved"] >= 20, drained

            async def taken_up():
                seen = [await nodes["vpn-1"].get(n) for n in names]
                return all(s.owner != "vpn-3" and s.state is SessionState.RECOVERING for s in seen)

            await until("the others resume", taken_up)
            refused = await cluster.cli("session", "create", "too-late", "--node", "vpn-3")
            assert refused.returncode == 4 and "NODE_DRAINING" in refused.stderr, refused
            assert await nodes["vpn-3"].list_sessions(owner="vpn-3", state=SessionState.ATTACHED) == []
        cluster.kill("vpn-3")
        cluster.start("vpn-3")
        async with cluster.connect() as nodes:
            await cluster.ready(nodes["vpn-3"], "vpn-3")
            await created(nodes["vpn-3"], "welcome-back")

    asyncio.run(main())


def test_the_audit_files_of_a_running_cluster_verify(cluster):
    """Recomputed from the files: whole, gapless from the first event, with equal chain heads on every node."""

    async def main():
        reports = await cluster.audit_settled()
        assert all(r.first == 1 and not r.gaps for r in reports) and len({r.head for r in reports}) == 1
        verified = await cluster.cli("audit", "verify", "-o", "json")
        said = json.loads(verified.stdout)
        assert (verified.returncode, said["differences"], said["not_compared"]) == (0, [], []), verified
        assert [t["node"] for t in said["trails"]] == cluster.node_ids

    asyncio.run(main())
