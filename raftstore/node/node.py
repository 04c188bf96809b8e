"""`Node`: what a gateway embeds. Ask it to bind, move and end sessions, and, per packet, whether it owns one.

The node runs on an event loop of its own, in its own thread, so that a blocking embedder cannot stall it; the
methods here may be awaited on any loop, and `BlockingNode` offers the same to threads. Every method that changes a
session returns it as of that very transition, or raises: Rejected (the cluster decided against it), Unavailable
(refused here before any proposal: no effect, ever), OutcomeUnknown (proposed, no answer in time), InvalidArgument.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from typing import Any, Self, TypeVar

from raftstore.config import ClusterConfig
from raftstore.errors import InvalidArgument, Unavailable
from raftstore.node import procedures, status
from raftstore.node.answers import session_or_raise
from raftstore.node.bridge import Bridge
from raftstore.node.dispatch import AssignedCallback, Dispatcher, FencedCallback, LateCommitCallback
from raftstore.node.proposals import Answer, Request, Ticket
from raftstore.node.requests import MIGRATION, Requests
from raftstore.node.runtime import Runtime, new_event_loop
from raftstore.node.surroundings import PRODUCTION, Surroundings
from raftstore.ownership import MappedNode, to_session, validate_session_id
from raftstore.ports import Clock, SystemClock
from raftstore.routing import Mapping as NodeMapping
from raftstore.types import Binding, OpId, Reason, Session, SessionState

T = TypeVar("T")
START_TIMEOUT_MS = 30_000
CONSISTENCIES = ("linearizable", "local")
STOPPED_BEFORE_ANSWER = Answer(False, Reason.DEADLINE_PASSED)  # the node's loop ended first


class Node:
    """One member of the cluster. Use as an async context manager, or `start` and `stop`.

    `insecure` runs the peer links without TLS, on loopback addresses only. With `own_thread=False` the node runs on
    the loop of whoever starts it (a process that does nothing else).
    """

    def __init__(
        self,
        config: ClusterConfig,
        node_id: str,
        *,
        insecure: bool = False,
        own_thread: bool = True,
        clock: Clock | None = None,
        surroundings: Surroundings = PRODUCTION,
    ) -> None:
        config.node(node_id)  # ConfigError when there is none
        self.config = config
        self.node_id = node_id
        self._insecure = insecure
        self._own_thread = own_thread
        self._clock = clock or SystemClock()
        self._surroundings = surroundings
        self._requests = Requests(config)
        self._dispatcher = Dispatcher()
        self._runtime: Runtime | None = None
        self._bridge: Bridge | None = None

    # --- life --------------------------------------------------------------------------------------------------
    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.stop()

    async def start(self, *, wait_ms: int | None = START_TIMEOUT_MS) -> None:
        """Open storage, listen, join. Returns once the node is caught up and holds its lease.

        Unavailable when it is not ready within `wait_ms` milliseconds, saying why; the node is stopped again then.
        With None it does not wait. StorageError, TransportError, ConfigError when it cannot start at all.
        """
        if self._runtime is not None:
            raise Unavailable(Reason.NODE_STOPPING, f"{self.node_id} was started before: make a new Node")
        caller_loop = asyncio.get_running_loop()
        self._dispatcher.deliver_to(caller_loop)
        runtime = self._runtime = Runtime(
            self.config,
            self.node_id,
            insecure=self._insecure,
            clock=self._clock,
            dispatcher=self._dispatcher,
            surroundings=self._surroundings,
        )
        loop, thread = (new_event_loop(), f"raftstore-{self.node_id}") if self._own_thread else (caller_loop, None)
        bridge = self._bridge = Bridge(loop, thread, lambda: runtime.end_of_inputs())
        runtime.answers_ready = bridge.flush_outlets
        self._requests.mapping_epoch = runtime.requests.mapping_epoch = runtime.mapping_epoch
        try:
            await self._on_loop(self._runtime.open())
            if wait_ms is not None:
                await self.wait_ready(wait_ms)
        except BaseException:
            await self.stop()
            raise

    async def stop(self, *, drain: bool = False) -> None:
        """Stop gracefully: drain if asked, own nothing, hand leadership over, say goodbye, close."""
        runtime, bridge = self._runtime, self._bridge
        if runtime is None or bridge is None or bridge.loop.is_closed():
            return
        await bridge.run(runtime.stop(drain=drain))
        await bridge.close()

    async def wait_ready(self, wait_ms: int) -> None:
        """Returns once this node can serve. Unavailable, saying why not, after `wait_ms` milliseconds."""
        await self._on_loop(self._opened().wait_ready(wait_ms))

    async def wait_failed(self) -> str:
        """Returns, with the reason, when the node has stopped serving for good."""
        return await self._on_loop(self._opened().wait_failed())

    def _opened(self) -> Runtime:
        if self._runtime is None or not self._runtime.is_open:
            raise Unavailable(Reason.NODE_STOPPING, f"{self.node_id} is not running")
        return self._runtime

    async def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._bridge is not None
        return await self._bridge.run(work)

    async def _ask(self, begin: Callable[[Callable[[Any], None]], object], if_it_ends: Any) -> Any:
        assert self._bridge is not None
        return await self._bridge.ask(begin, if_it_ends)

    def _has_ended(self) -> Unavailable:
        return Unavailable(Reason.NODE_STOPPING, f"{self.node_id} has stopped")

    def _call(self, function: Callable[[], T]) -> T:
        assert self._bridge is not None
        return self._bridge.call(function)

    # --- one op --------------------------------------------------------------------------------------------------
    async def _op(self, request: Request) -> Session:
        runtime, bridge = self._opened(), self._bridge
        assert bridge is not None
        refusal = runtime.known_refusal
        if refusal is not None:  # without a majority everybody comes back at once: that must not fill the node's loop
            runtime.count_refusal(refusal[0])
            await asyncio.sleep(0)  # nor the caller's, if it asks again without end
            raise Unavailable(*refusal)
        ticket = Ticket(request)
        try:
            answer = await bridge.ask(functools.partial(runtime.begin, ticket), STOPPED_BEFORE_ANSWER)
        except asyncio.CancelledError:
            bridge.inbox.post(lambda: runtime.caller_left(ticket))
            raise
        if answer.decided and answer.reason is None:
            return to_session(answer.record)
        return session_or_raise(answer, runtime.op_id(ticket))

    async def create(
        self,
        session_id: str,
        *,
        binding: Binding | None = None,
        ttl_ms: int | None = None,
        policy: str | None = None,
        timeout_ms: int | None = None,
    ) -> Session:
        """A new session, owned here: ATTACHED with a binding, else RECOVERING. `policy` "deny" or "terminate"."""
        return await self._op(self._requests.create(session_id, binding, ttl_ms, policy, timeout_ms))

    async def reattach(
        self,
        session_id: str,
        *,
        expected_version: int,
        binding: Binding,
        nonce: int | None = None,
        timeout_ms: int | None = None,
    ) -> Session:
        """Bind a new transport in place of the old (ownership model, sections 1 and 4). A nonce must grow."""
        return await self._op(self._requests.reattach(session_id, expected_version, binding, nonce, timeout_ms))

    async def detach(
        self, session_id: str, *, expected_version: int, reason: str = "DETACHED", timeout_ms: int | None = None
    ) -> Session:
        """Release the binding; the session may reattach within the window. `owns` is false from this call on."""
        return await self._op(self._requests.detach(session_id, expected_version, reason, timeout_ms))

    async def renew(
        self, session_id: str, *, expected_version: int, ttl_ms: int | None = None, timeout_ms: int | None = None
    ) -> Session:
        """A new time to live in milliseconds, from the commit on."""
        return await self._op(self._requests.renew(session_id, expected_version, ttl_ms, timeout_ms))

    async def migrate(
        self, session_id: str, *, expected_version: int, to: str, timeout_ms: int | None = None
    ) -> Session:
        """Controlled migration (ownership model, section 3): freeze, then transfer to node `to`, which resumes.

        Refused transfers leave the session thawed here, without a binding.
        """
        if self.config.is_sticky:
            problem = "strategy sticky: the mapping says where a session is (raftstore mapping --help changes it)"
            raise InvalidArgument("to", problem)
        self._requests.freeze(session_id, expected_version, MIGRATION, to, timeout_ms)  # InvalidArgument first
        work = procedures.migrate(self._opened(), session_id, expected_version, to, MIGRATION, timeout_ms)
        return await self._on_loop(work)

    async def resume(
        self,
        session_id: str,
        *,
        expected_version: int,
        binding: Binding | None = None,
        timeout_ms: int | None = None,
    ) -> Session:
        """Take up a session that was transferred to this node."""
        return await self._op(self._requests.resume(session_id, expected_version, binding, timeout_ms))

    async def failover(
        self,
        session_id: str,
        *,
        expected_version: int,
        binding: Binding | None = None,
        timeout_ms: int | None = None,
    ) -> Session:
        """Take over from an owner whose lease has lapsed; OWNER_STILL_LIVE until then (ownership model, section 3)."""
        return await self._op(self._requests.failover(session_id, expected_version, binding, timeout_ms))

    async def terminate(
        self,
        session_id: str,
        *,
        expected_version: int,
        reason: str = "POLICY",
        operator: bool = False,
        timeout_ms: int | None = None,
    ) -> Session:
        """End the session for good. An operator may do so from any node."""
        request = self._requests.terminate(session_id, expected_version, reason, operator, timeout_ms)
        return await self._op(request)

    # --- reading ---------------------------------------------------------------------------------------------------
    def owns(self, session_id: str, epoch: int | None = None) -> bool:
        """Whether this node may act for the session right now. Memory only, any thread, per packet.

        True only if this process bound it, was told so in time, and its lease runs by its own clock. What the caller
        does afterwards takes time: give `epoch` downstream as a fencing token.
        """
        runtime = self._runtime
        return runtime is not None and runtime.is_open and runtime.owned.owns(session_id, epoch)

    def owned_epoch(self, session_id: str) -> int | None:
        """The epoch under which this node owns the session right now, else None."""
        runtime = self._runtime
        return runtime.owned.epoch(session_id) if runtime is not None and runtime.is_open else None

    @functools.cached_property
    def _mapping(self) -> NodeMapping:
        """The mapping that the configuration states: epoch 1, no node draining."""
        return NodeMapping.of(1, self.config.weights)

    def preferred_owner(self, session_id: str) -> str | None:
        """The node to which the mapping sends the session; None when no node takes sessions. Memory only, any thread.

        A hint of placement (ownership model, section 2.1): who owns the session now is what `get` says. InvalidArgument
        for what is no session id.
        """
        validate_session_id(session_id)
        runtime = self._runtime
        if runtime is not None and runtime.sticky is not None:
            return runtime.sticky.gate.owner(session_id)
        return self._mapping.owner(session_id)

    async def get(
        self, session_id: str, *, consistency: str = "linearizable", timeout_ms: int | None = None
    ) -> Session:
        """The session. "linearizable": no older than this call; "local": as this replica has it.

        Rejected(SESSION_NOT_FOUND) when there is none.
        """
        if consistency not in CONSISTENCIES:
            raise InvalidArgument("consistency", f"must be one of {', '.join(CONSISTENCIES)}")
        runtime = self._opened()
        validate_session_id(session_id)
        timeout = self._requests.timeout_ms(timeout_ms)
        linearizable = consistency == "linearizable"
        if self.config.is_sticky or (linearizable and not runtime.core.may_read_now()):
            problem = await self._ask(
                lambda deliver: runtime.read(session_id, linearizable, timeout, deliver), self._has_ended()
            )
            if problem is not None:
                raise problem
        return status.get_session(runtime, session_id)

    async def list_sessions(
        self,
        *,
        owner: str | None = None,
        state: SessionState | str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[Session]:
        """Sessions of this replica in the order of their ids, at most `limit` (1 to 1000) beyond `after`."""
        return await self._on_loop(status.page_of_sessions(self._opened(), owner, state, limit, after))

    def status(self) -> dict[str, Any]:
        """This node's view of itself and the cluster, as plain JSON types."""
        runtime = self._opened()
        return self._call(lambda: status.node_status(runtime))

    def explain(self, session_id: str) -> dict[str, Any]:
        """Who owns the session, since which log index, and why a reattach here would be refused now."""
        runtime = self._opened()
        return self._call(lambda: status.explain(runtime, session_id))

    def outcome(self, op_id: OpId) -> dict[str, Any] | None:
        """What became of an op of this process whose outcome was unknown; None when it is not known here."""
        runtime = self._opened()
        return self._call(lambda: status.outcome(runtime, op_id))

    def ready(self) -> list[tuple[str, bool, str]]:
        """(check, ok, detail): whether this node can serve ops now."""
        runtime = self._opened()
        return self._call(lambda: status.ready(runtime))

    def alive(self) -> list[tuple[str, bool, str]]:
        """(check, ok, detail): whether the process works at all, whatever the cluster does."""
        runtime = self._opened()
        return self._call(lambda: status.alive(runtime))

    async def events(self, after: int = 0) -> AsyncIterator[dict[str, Any]]:
        """Audit events with numbers above `after`, in order, followed for ever (ownership model, section 9)."""
        runtime = self._opened()
        while True:
            batch = await self._on_loop(runtime.next_events(after))
            for event in batch:
                after = event["number"]
                yield event

    def audit_end(self) -> int:
        """Number of the newest audit event that this replica knows."""
        return self._opened().machine.event_seq

    # --- steering ----------------------------------------------------------------------------------------------------
    async def drain(self) -> Mapping[str, Any]:
        """Take no new sessions and move all to the other nodes. Returns how many moved and failed."""
        return await self._on_loop(self._opened().drain())

    def mapping(self) -> dict[str, Any]:
        """The mapping of session ids to nodes (ownership model, section 2.1), as plain JSON types.

        In the sticky strategy with how far it is settled; in the shared one it is the placement hint of cluster.conf.
        """
        runtime = self._opened()
        return self._call(lambda: status.mapping(runtime))

    async def change_mapping(
        self,
        nodes: Mapping[str, int],
        *,
        draining: Collection[str] = (),
        lost: Collection[str] = (),
        epoch: int | None = None,
    ) -> Mapping[str, Any]:
        """Sticky strategy: set a mapping with the next epoch, of these nodes with their weights.

        Returns what `mapping` does once the change is in this node's log; the nodes then move exactly the sessions that
        must move. `epoch`, where given, must be the next: of two who change at once one learns of the other. `lost`
        declares nodes that will never run again; what was theirs is gone, and their ids open only when the longest TTL
        has passed. InvalidArgument, Unavailable, OutcomeUnknown.
        """
        strangers = sorted(set(draining) - set(nodes))
        if strangers:
            raise InvalidArgument("draining", f"{strangers[0]} is not among the nodes")
        mapped = [MappedNode(node_id, weight, node_id in draining) for node_id, weight in nodes.items()]
        return await self._on_loop(self._opened().change_mapping(mapped, lost, epoch))

    async def transfer_leadership(self, to: str | None = None) -> str:
        """Hand leadership to `to`, or to the best candidate; its id. Rejected or Unavailable when it cannot be."""
        if to is not None and to not in self.config.node_ids:
            raise InvalidArgument("to", f"no node {to!r} (known: {', '.join(self.config.node_ids)})")
        return await self._on_loop(self._opened().transfer_leadership(to))

    def isolate(self, peers: set[str]) -> None:
        """Cut the links to these peers until called again without them. For tests and demonstrations."""
        runtime = self._opened()
        self._call(lambda: runtime.links.isolate(peers))

    # --- callbacks ---------------------------------------------------------------------------------------------------
    def on_fenced(self, callback: FencedCallback) -> None:
        """`callback(session_id, epoch, reason)` when this node may no longer act for a session it owned.

        `owns` is false already. Called on the loop that started the node; epochs are for whoever acts downstream.
        """
        self._dispatcher.on_fenced.append(callback)

    def on_assigned(self, callback: AssignedCallback) -> None:
        """`callback(session)` when a session was transferred to this node: resume it before `freeze_by_ms`."""
        self._dispatcher.on_assigned.append(callback)

    def on_late_commit(self, callback: LateCommitCallback) -> None:
        """`callback(op_id, session)` when a binding committed after its caller was told that it is unknown.

        Return True to own the session after all; otherwise it is detached again with reason LATE_COMMIT.
        """
        self._dispatcher.on_late_commit = callback
