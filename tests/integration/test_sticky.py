"""The sticky strategy on real processes: founding, faults, mapping changes and what interrupts them, and operators."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result
from real_cluster import RealCluster
from real_waiting import binding, created, outcome_of, until

from raftstore.cli.main import main
from raftstore.client import Client
from raftstore.errors import Rejected, Unavailable
from raftstore.routing import Mapping
from raftstore.types import Reason, Session

FEW, MANY = 60, 3_000
AT_ONCE = 300
FOUNDING = Mapping.of(1, {"vpn-1": 1, "vpn-2": 1, "vpn-3": 1})


@pytest.fixture(scope="module")
def shared() -> Iterator[RealCluster]:
    """Three sticky nodes for the tests of this file."""
    with RealCluster(strategy="sticky") as real:
        yield real


@pytest.fixture
def settled(cluster: RealCluster) -> RealCluster:
    """All of it up, and the mapping as equal as at the founding, under whichever epoch."""
    mapping_cli(cluster, "set", "vpn-1=1", "vpn-2=1", "vpn-3=1")
    return cluster


def cli(cluster: RealCluster, *arguments: str) -> Result:
    """`raftstore ARGUMENTS` with the cluster's configuration, in this process: starting another one takes a while."""
    done = CliRunner().invoke(main, [*arguments, "--config", str(cluster.config_path)], prog_name="raftstore")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def mapping_cli(cluster: RealCluster, *arguments: str, exit_code: int = 0) -> str:
    """`raftstore mapping ...`: what it printed, stderr included."""
    done = cli(cluster, "mapping", *arguments)
    assert done.exit_code == exit_code, (done.exit_code, done.output)
    return done.output


def weights(cluster: RealCluster, **changed: int) -> list[str]:
    """Arguments of `mapping set`: every node with weight 1, but for those named (vpn_2=0)."""
    return [f"{n}={changed.get(n.replace('-', '_'), 1)}" for n in cluster.node_ids]


async def create_all(nodes: dict[str, Client], mapping: Mapping, session_ids: list[str]) -> None:
    """Create each session at the node to which it maps."""
    for begin in range(0, len(session_ids), AT_ONCE):
        some = session_ids[begin : begin + AT_ONCE]
        await asyncio.gather(*(nodes[mapping.owner(sid) or ""].create(sid) for sid in some))


async def everywhere(nodes: dict[str, Client], prefix: str) -> dict[str, list[Session]]:
    """Each session of that prefix as every node that holds it shows it."""
    found: dict[str, list[Session]] = {}
    for client in nodes.values():
        after = prefix
        while page := await client.list_sessions(limit=1_000, after=after):
            for session in page:
                if session.session_id.startswith(prefix):
                    found.setdefault(session.session_id, []).append(session)
            after = page[-1].session_id
            if not after.startswith(prefix):
                break
    return found


async def check_places(nodes: dict[str, Client], mapping: Mapping, session_ids: list[str]) -> Counter[str]:
    """Every session is at the one node to which it maps, and nowhere else. How many each has."""
    found = await everywhere(nodes, session_ids[0].partition(".")[0] + ".")
    assert found.keys() == set(session_ids)
    assert {sid: [s.owner for s in shown] for sid, shown in found.items()} == {
        sid: [mapping.owner(sid)] for sid in session_ids
    }
    return Counter(shown[0].owner for shown in found.values())


async def renewed_as_soon_as_possible(client: Client, session_id: str) -> Session:
    """By the process that came after one that was killed: it must wait for that one's lease to lapse."""

    async def once() -> Session | None:
        try:
            return await client.renew(session_id, expected_version=1, ttl_ms=60_000)
        except Rejected as refusal:
            assert refusal.reason is Reason.OWNER_STILL_LIVE, refusal
            return None

    session: Session = await until(f"{session_id} is renewed", once)
    return session


async def refuses_as_unsettled(client: Client, session_id: str) -> bool:
    """Never takes the session. Just after its start, a node may not even have its own parameters yet."""
    reason, _ = await outcome_of(client.create(session_id))
    assert reason in {Reason.LEASE_LOST, Reason.MAPPING_UNSETTLED}, reason
    return reason == Reason.MAPPING_UNSETTLED


async def mapping_now(client: Client) -> Mapping:
    told = await client.mapping()
    return Mapping.of(told["epoch"], {n["node_id"]: n["weight"] for n in told["nodes"] if not n["draining"]})


def ids(prefix: str, count: int) -> list[str]:
    return [f"{prefix}.{number}" for number in range(count)]


def id_at(node_id: str, prefix: str) -> str:
    """A session id that maps to that node while all have one weight."""
    return next(sid for sid in ids(prefix, 1_000) if FOUNDING.owner(sid) == node_id)


# --- founding and single ops ---------------------------------------------------------------------------------------


def test_a_session_is_created_where_it_maps_and_refused_elsewhere_with_the_right_node(settled):
    """By every node alike; `session get` shows policy and owner; what has no meaning without a leader is refused."""
    sid = id_at("vpn-2", "right")

    async def work():
        async with settled.connect() as nodes:
            for wrong in ("vpn-1", "vpn-3"):
                with pytest.raises(Rejected) as refused:
                    await nodes[wrong].create(sid)
                assert (refused.value.reason, refused.value.owner) == (Reason.OWNERSHIP_CONFLICT, "vpn-2")
            session = await nodes["vpn-2"].create(sid, binding=binding(), policy="terminate")
            assert (session.owner, session.epoch, session.state_version) == ("vpn-2", 1, 1)
            assert await nodes["vpn-2"].owns(sid, 1)

    asyncio.run(work())
    got = cli(settled, "session", "get", sid, "--node", "vpn-2")
    assert "policy           terminate" in got.stdout, got.stdout
    elsewhere = cli(settled, "session", "get", sid, "--node", "vpn-1")
    assert (elsewhere.exit_code, "ask it with --node vpn-2" in elsewhere.stderr) == (4, True)
    for command in (("leader", "transfer"), ("session", "migrate", sid, "-e", "1", "--to", "vpn-1", "-n", "vpn-2")):
        done = cli(settled, *command)
        assert (done.exit_code, "strategy sticky" in done.stderr) == (2, True), done.stderr


def test_a_killed_node_s_sessions_are_unavailable_until_it_is_back_and_the_others_go_on(settled):
    """The refusal names the node and says until when; the restarted node has its sessions, once its lease allows."""
    theirs, ours = ids("gone", FEW), id_at("vpn-1", "goes-on")

    async def work():
        async with settled.connect() as nodes:
            await create_all(nodes, FOUNDING, theirs)
            mine = next(sid for sid in theirs if FOUNDING.owner(sid) == "vpn-3")
            settled.kill("vpn-3")

            async def refused() -> str:
                with pytest.raises(Rejected) as refusal:
                    await nodes["vpn-1"].renew(mine, expected_version=1, ttl_ms=60_000)
                assert (refusal.value.reason, refusal.value.owner) == (Reason.OWNERSHIP_CONFLICT, "vpn-3")
                return "unavailable until vpn-3 is back" in refusal.value.detail

            await until("the loss of the link is noticed", refused)
            session = await nodes["vpn-1"].create(ours, binding=binding())
            assert await nodes["vpn-1"].owns(ours, session.epoch)
            settled.start("vpn-3")
            await settled.ready(nodes["vpn-3"], "vpn-3")
            assert (await renewed_as_soon_as_possible(nodes["vpn-3"], mine)).state_version == 2
            await check_places(nodes, FOUNDING, theirs)

    asyncio.run(work())
    assert "settled" in mapping_cli(settled, "wait")


def test_nodes_with_different_weights_found_nothing_and_say_so():
    """Neither takes a session; both name the difference; the same tables, and they are founded."""
    with RealCluster(2, strategy="sticky", started=False) as real:
        real.start("vpn-1")
        real.start("vpn-2", config=real.write_config("other.conf", weights={"vpn-2": 3}))

        async def work():
            async with real.connect() as nodes:

                async def told(name: str) -> bool:
                    return "different [[node]] tables" in str((await nodes[name].status())["security_events"])

                for name in real.node_ids:
                    await until(f"{name} says so", lambda n=name: told(n), told=lambda n=name: real.log(n))
                    await until(f"{name} refuses", lambda n=name: refuses_as_unsettled(nodes[n], "s"))

        asyncio.run(work())
        shown = mapping_cli(real, "show", "--all", exit_code=3)
        assert "vpn-1 has no mapping yet" in shown and "vpn-2 and vpn-1 have different [[node]] tables" in shown
        assert real.stop("vpn-2") == 0
        real.start("vpn-2")
        assert "settled: mapping epoch 1" in mapping_cli(real, "wait")


# --- a change and what interrupts it -------------------------------------------------------------------------------


def test_a_cluster_grows_by_configuration_rolling_restart_and_a_mapping_change():
    """Only sessions that map to the new node move; a lone mapping before the change, and after it, on every node."""
    with RealCluster(3, strategy="sticky") as real:
        names = ids("grow", 600)

        async def fill():
            async with real.connect() as nodes:
                await create_all(nodes, FOUNDING, names)

        asyncio.run(fill())
        real.add_node("vpn-4")
        for node_id in real.node_ids:
            if node_id != "vpn-4":
                assert real.stop(node_id) == 0
            real.start(node_id)
        real.wait_ready(*real.node_ids)
        moves = json.loads(mapping_cli(real, "set", *weights(real), "--dry-run", "-o", "json"))
        assert 0.22 < moves["share"] < 0.28 and {move["to"] for move in moves["moves"]} == {"vpn-4"}
        assert "settled: mapping epoch 2" in mapping_cli(real, "set", *weights(real))

        async def check():
            async with real.connect() as nodes:
                grown = Mapping.of(2, dict.fromkeys(real.node_ids, 1))
                assert 100 <= (await check_places(nodes, grown, names))["vpn-4"] <= 200
                found = await everywhere(nodes, "grow.")
                for sid, (session,) in found.items():
                    stayed = FOUNDING.owner(sid) == session.owner
                    assert (session.epoch, session.state_version > 1) == ((1, False) if stayed else (2, True))

        asyncio.run(check())


@pytest.mark.parametrize("victim", ["vpn-1", "vpn-2"])
def test_a_change_that_a_kill_interrupts_settles_after_the_restart(settled, victim):
    """vpn-1 gives all it has; it, or a node that takes, is killed in the middle. No session is lost or doubled."""
    names = ids(f"cut-{victim}", MANY)

    async def work():
        async with settled.connect() as nodes:
            await create_all(nodes, FOUNDING, names)
            told = await nodes["vpn-1"].change_mapping({"vpn-1": 0, "vpn-2": 1, "vpn-3": 1})

            async def in_the_middle() -> bool:
                now = await nodes["vpn-1"].mapping()
                return now["departed"] > told["departed"] and bool(now["leaving"])

            await until("sessions are on their way", in_the_middle)
            settled.kill(victim)
            settled.start(victim)
            await settled.ready(nodes[victim], victim)

    asyncio.run(work())
    assert "settled" in mapping_cli(settled, "wait")

    async def check():
        async with settled.connect() as nodes:
            assert (await check_places(nodes, await mapping_now(nodes["vpn-2"]), names))["vpn-1"] == 0
            for sid, (session,) in (await everywhere(nodes, f"cut-{victim}.")).items():
                moved = FOUNDING.owner(sid) == "vpn-1"
                assert session.state_version >= (3 if moved else 1) and (session.epoch > 1) == moved

    asyncio.run(check())


def test_a_change_is_rolled_back_in_the_middle(settled):
    """One node stands still, so the change cannot settle: back it goes, and every session is where it was."""
    names = ids("back", 600)

    async def begin():
        async with settled.connect() as nodes:
            await create_all(nodes, FOUNDING, names)
            settled.freeze("vpn-3")
            await nodes["vpn-1"].change_mapping({"vpn-1": 0, "vpn-2": 1, "vpn-3": 1})

            async def some_moved() -> bool:
                return (await nodes["vpn-2"].mapping())["taken"] > 0

            await until("some have moved", some_moved)

    asyncio.run(begin())
    waiting = mapping_cli(settled, "wait", "--timeout", "0.1", exit_code=3)
    assert "vpn-3 does not answer" in waiting and "mapping rollback" in waiting
    assert "back to the nodes of epoch" in mapping_cli(settled, "rollback", "--no-wait")
    settled.thaw("vpn-3")
    assert "settled" in mapping_cli(settled, "wait")

    async def check():
        async with settled.connect() as nodes:
            await check_places(nodes, FOUNDING, names)

    asyncio.run(check())


def test_a_settled_change_is_rolled_back_after_a_restart_of_all(settled):
    """The mapping before stands in every node's log."""
    mapping_cli(settled, "set", *weights(settled, vpn_2=5))
    settled.kill(*settled.node_ids)
    settled.start(*settled.node_ids)
    settled.wait_ready(*settled.node_ids)
    said = mapping_cli(settled, "rollback")
    assert re.search(r"back to the nodes of epoch \d+: vpn-1=1 vpn-2=1 vpn-3=1\n", said)


def test_a_drain_lasts_until_the_mapping_is_set_without_it(settled):
    """All sessions leave; a restart changes nothing; the command that it printed brings the node back.

    The audit trails stay whole through it; each is its node's own.
    """
    names = ids("drained", FEW)

    async def fill():
        async with settled.connect() as nodes:
            await create_all(nodes, FOUNDING, names)

    asyncio.run(fill())
    done = cli(settled, "drain", "--node", "vpn-2")
    assert done.exit_code == 0 and "until: raftstore mapping set vpn-1=1 vpn-2=1 vpn-3=1" in done.stdout, done
    settled.kill("vpn-2")
    settled.start("vpn-2")
    settled.wait_ready("vpn-2")
    shown = json.loads(mapping_cli(settled, "show", "--node", "vpn-2", "-o", "json"))
    assert [n["draining"] for n in shown["nodes"][0]["nodes"]] == [False, True, False]
    mapping_cli(settled, "set", *weights(settled))

    async def check():
        async with settled.connect() as nodes:
            await check_places(nodes, FOUNDING, names)

    asyncio.run(check())
    verified = cli(settled, "audit", "verify")
    assert verified.exit_code == 0 and "each node has a chain of its own" in verified.stdout, verified.output


def test_two_mappings_of_one_epoch_stop_what_they_dispute_until_a_higher_one(settled):
    """Changed on both sides of a cut: what both map alike goes on, the rest is refused, the operator settles it."""

    async def work() -> int:
        async with settled.connect() as nodes:
            epoch = (await nodes["vpn-1"].mapping())["epoch"]
            await nodes["vpn-1"].isolate(["vpn-2", "vpn-3"])
            ours = Mapping.of(epoch + 1, {"vpn-1": 5, "vpn-2": 1, "vpn-3": 1})
            theirs = Mapping.of(epoch + 1, {"vpn-1": 1, "vpn-2": 1, "vpn-3": 1})
            for name, mapping in (("vpn-1", ours), ("vpn-2", theirs)):
                await nodes[name].change_mapping({n.node_id: n.weight for n in mapping.nodes}, epoch=epoch + 1)
            await nodes["vpn-1"].isolate([])
            disputed = next(s for s in ids("x", 1_000) if (ours.owner(s), theirs.owner(s)) == ("vpn-1", "vpn-2"))

            async def is_refused_by(name: str) -> bool:
                try:
                    await nodes[name].create(disputed)
                except Unavailable as refusal:
                    return refusal.reason is Reason.MAPPING_UNSETTLED and "disagree" in refusal.detail
                raise AssertionError(f"{name} took {disputed}")

            for name in ("vpn-1", "vpn-2"):
                await until(f"{name} refuses", lambda n=name: is_refused_by(n), told=lambda n=name: settled.log(n))
            return epoch

    epoch = asyncio.run(work())
    shown = mapping_cli(settled, "show", "--all", exit_code=3)
    assert f"DIFFER in epoch {epoch + 1}" in shown and f"set one of epoch {epoch + 2}" in shown
    assert f"settled: mapping epoch {epoch + 2}" in mapping_cli(settled, "set", *weights(settled))


# --- directories and settings --------------------------------------------------------------------------------------


def test_a_wiped_node_is_refused_its_range_until_it_is_declared_lost():
    """It says what to do; the others go on without it after the longest TTL; with an empty directory it comes back."""
    with RealCluster(3, strategy="sticky", started=False) as real:
        real.reconfigure(ttl_default_ms=1_000, ttl_max_ms=2_000)
        real.start(*real.node_ids)
        mapping_cli(real, "wait")
        mine = id_at("vpn-3", "wiped")
        real.kill("vpn-3")
        real.wipe("vpn-3")
        real.start("vpn-3")

        async def refused() -> None:
            async with real.connect() as nodes:

                async def knows() -> bool:
                    told = (await nodes["vpn-3"].status())["security_events"]
                    return "STORE_CHANGED" in {event["kind"] for event in told}

                await until("vpn-3 learns that it was another", knows)
                await until("vpn-3 refuses", lambda: refuses_as_unsettled(nodes["vpn-3"], mine))

        asyncio.run(refused())
        assert "declare it lost (raftstore mapping set --lost)" in mapping_cli(real, "show", "-n", "vpn-3", exit_code=3)
        lost = ("set", "vpn-1=1", "vpn-2=1", "--lost", "vpn-3", "--yes-it-will-never-run-again")
        assert "lost: vpn-3 runs" in mapping_cli(real, *lost, exit_code=2)
        real.kill("vpn-3")

        async def noticed() -> None:
            async with real.connect() as nodes:

                async def is_off(name: str) -> bool:
                    return not (await nodes[name].mapping())["peers"]["vpn-3"]["connected"]

                for name in ("vpn-1", "vpn-2"):
                    await until(f"{name} notices", lambda n=name: is_off(n))

        asyncio.run(noticed())
        assert "settled: mapping epoch 2" in mapping_cli(real, *lost)
        real.wipe("vpn-3")
        real.start("vpn-3")
        assert "settled: mapping epoch 3" in mapping_cli(real, "set", *weights(real))

        async def taken():
            async with real.connect() as nodes:
                assert (await created(nodes["vpn-3"], mine)).owner == "vpn-3"  # once it has its lease

        asyncio.run(taken())


@pytest.mark.parametrize("strategy", ["shared", "sticky"])
def test_a_directory_of_the_other_strategy_is_refused_and_a_new_policy_holds_for_new_sessions(strategy):
    """Exit status 1 and one line with the way out. `session get` shows which policy holds for which session."""
    with RealCluster(1, strategy=strategy) as real:
        assert cli(real, "session", "create", "older").exit_code == 0
        assert real.stop("vpn-1") == 0
        other = {"shared": "sticky", "sticky": "shared"}[strategy]
        said = real.refused_start("vpn-1", real.write_config("other.conf", strategy=other))
        assert f"belongs to strategy '{strategy}'" in said and "empty data directory" in said
        real.reconfigure(partition_policy="terminate")
        real.start("vpn-1")
        real.wait_ready("vpn-1")

        async def newer():
            async with real.connect() as nodes:
                await until("newer is created", lambda: nodes["vpn-1"].create("newer"))

        asyncio.run(newer())
        for session_id, policy in (("older", "deny"), ("newer", "terminate")):
            shown = json.loads(cli(real, "session", "get", session_id, "-o", "json").stdout)
            assert shown["session"]["policy"] == policy
