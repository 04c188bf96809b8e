"""What a caller may ask for, checked and packed: one function per transition of the ownership model.

Arguments outside their bounds raise InvalidArgument here, before anything is proposed. `binds` marks what makes
this node act for the session, `gives_up` what ends that (`owns` is false from the moment of the proposal).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raftstore.config import ClusterConfig
from raftstore.errors import InvalidArgument
from raftstore.node.proposals import Request
from raftstore.ownership import commands as ops

DRAIN, MIGRATION = "DRAIN", "MIGRATION"

Given = (
    Any  # by a caller, to be checked here: a compiled function checks what is declared, with TypeError and True for 1
)


class Requests:
    """Builds requests for one node. Times in milliseconds; see the ownership model, sections 3 and 6."""

    def __init__(self, config: ClusterConfig) -> None:
        self._config = config
        self.mapping_epoch: Callable[[], int] = lambda: 0  # by which a session was judged to belong here

    def timeout_ms(self, timeout_ms: Given) -> int | None:
        limit = self._config.timing.op_timeout_max_ms
        if timeout_ms is not None and (type(timeout_ms) is not int or not 1 <= timeout_ms <= limit):
            raise InvalidArgument("timeout_ms", f"must be an integer from 1 to {limit}")
        return None if timeout_ms is None else int(timeout_ms)

    def _ttl(self, ttl_ms: Given) -> int:
        sessions = self._config.sessions
        ttl = sessions.ttl_default_ms if ttl_ms is None else ttl_ms
        return ops.validate_ttl_ms(ttl, sessions.ttl_max_ms)

    def _node(self, field: str, node_id: Given) -> None:
        if node_id not in self._config.node_ids:
            raise InvalidArgument(field, f"no node {node_id!r} (known: {', '.join(self._config.node_ids)})")

    def create(
        self,
        session_id: Given,
        binding: Given,
        ttl_ms: Given,
        policy: Given,
        timeout_ms: Given,
    ) -> Request:
        ops.validate_session_id(session_id)
        _check_optional(binding)
        ops.validate_policy(policy)
        ttl = self._ttl(ttl_ms)

        def build(seq: int, deadline: int) -> bytes:
            epoch = self.mapping_epoch()
            if epoch:
                return ops.create_mapped(seq, deadline, session_id, binding, ttl, policy, epoch)
            return ops.create(seq, deadline, session_id, binding, ttl, policy)

        return Request(
            "create",
            session_id,
            build,
            self.timeout_ms(timeout_ms),
            binds=binding is not None,
        )

    def reattach(self, session_id: Given, version: Given, binding: Given, nonce: Given, timeout_ms: Given) -> Request:
        _check(session_id, version)
        ops.validate_binding(binding)
        ops.validate_nonce(nonce)
        return Request(
            "reattach",
            session_id,
            lambda seq, deadline: ops.reattach(seq, deadline, session_id, version, binding, nonce),
            self.timeout_ms(timeout_ms),
            binds=True,
        )

    def detach(self, session_id: Given, version: Given, reason: Given, timeout_ms: Given) -> Request:
        _check(session_id, version)
        ops.validate_reason(reason)
        return Request(
            "detach",
            session_id,
            lambda seq, deadline: ops.detach(seq, deadline, session_id, version, reason),
            self.timeout_ms(timeout_ms),
            gives_up=True,
        )

    def renew(self, session_id: Given, version: Given, ttl_ms: Given, timeout_ms: Given) -> Request:
        _check(session_id, version)
        ttl = self._ttl(ttl_ms)
        return Request(
            "renew",
            session_id,
            lambda seq, deadline: ops.renew(seq, deadline, session_id, version, ttl),
            self.timeout_ms(timeout_ms),
        )

    def freeze(self, session_id: Given, version: Given, reason: Given, to: Given, timeout_ms: Given) -> Request:
        _check(session_id, version)
        self._node("to", to)
        return Request(
            "freeze",
            session_id,
            lambda seq, deadline: ops.freeze(seq, deadline, session_id, version, reason, to),
            self.timeout_ms(timeout_ms),
            gives_up=True,
        )

    def transfer(self, session_id: Given, version: Given, timeout_ms: Given) -> Request:
        _check(session_id, version)
        return Request(
            "transfer",
            session_id,
            lambda seq, deadline: ops.transfer(seq, deadline, session_id, version),
            self.timeout_ms(timeout_ms),
            gives_up=True,
        )

    def resume(self, session_id: Given, version: Given, binding: Given, timeout_ms: Given) -> Request:
        _check(session_id, version)
        _check_optional(binding)
        return Request(
            "resume",
            session_id,
            lambda seq, deadline: ops.resume(seq, deadline, session_id, version, binding),
            self.timeout_ms(timeout_ms),
            binds=binding is not None,
        )

    def thaw(self, session_id: Given, version: Given, timeout_ms: Given) -> Request:
        _check(session_id, version)
        return Request(
            "thaw",
            session_id,
            lambda seq, deadline: ops.thaw(seq, deadline, session_id, version),
            self.timeout_ms(timeout_ms),
        )

    def failover(self, session_id: Given, version: Given, binding: Given, timeout_ms: Given) -> Request:
        _check(session_id, version)
        _check_optional(binding)
        return Request(
            "failover",
            session_id,
            lambda seq, deadline: ops.failover(seq, deadline, session_id, version, binding),
            self.timeout_ms(timeout_ms),
            binds=binding is not None,
        )

    def terminate(
        self, session_id: Given, version: Given, reason: Given, operator: Given, timeout_ms: Given
    ) -> Request:
        _check(session_id, version)
        ops.validate_reason(reason)
        if type(operator) is not bool:
            raise InvalidArgument("operator", "must be true or false")
        return Request(
            "terminate",
            session_id,
            lambda seq, deadline: ops.terminate(seq, deadline, session_id, version, reason, operator),
            self.timeout_ms(timeout_ms),
            gives_up=True,
        )

    def drain(self, timeout_ms: Given) -> Request:
        return Request("drain", None, lambda seq, deadline: ops.drain(seq, deadline), self.timeout_ms(timeout_ms))

    def leave(self, timeout_ms: Given) -> Request:
        return Request("leave", None, lambda seq, deadline: ops.leave(seq, deadline), self.timeout_ms(timeout_ms))


def _check(session_id: Given, version: Given) -> None:
    ops.validate_session_id(session_id)
    ops.validate_version(version)


def _check_optional(binding: Given) -> None:
    if binding is not None:
        ops.validate_binding(binding)
