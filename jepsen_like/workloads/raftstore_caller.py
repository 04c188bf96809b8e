"""Ops over a node's HTTP API, and what each answer means: it happened, it certainly did not, or nobody knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jepsen_like.workloads.base import Op, Outcome
from raftstore.client import Client, NoAnswer, RequestFailed, Unreachable
from raftstore.errors import InvalidArgument, OutcomeUnknown, Rejected, Unavailable
from raftstore.types import Binding, Session

CALL_TIMEOUT_S = 3.0  # the node's own deadline is shorter
READS = {"get": "linearizable", "get-local": "local"}


class RaftstoreCaller:
    """`endpoint`: node to the address of its API."""

    def __init__(self, endpoint: Callable[[str], str]) -> None:
        self._endpoint = endpoint
        self._clients: dict[str, Client] = {}

    async def call(self, node: str, op: Op) -> Outcome:
        if node not in self._clients:
            self._clients[node] = Client(self._endpoint(node), timeout_s=CALL_TIMEOUT_S)
        client = self._clients[node]
        try:
            if op.f in READS:
                session = await client.get(op.key, READS[op.f])
            else:
                session = (await client.op(op.f, op.key, **arguments(op))).session
            return Outcome("ok", shown(session))
        except Rejected as refusal:
            value = {"reason": str(refusal.reason), "session": shown(refusal.session)}
            return Outcome("fail", value, str(refusal.reason))
        except Unavailable as refusal:
            return Outcome("fail", {"reason": str(refusal.reason), "session": None}, str(refusal.reason))
        except OutcomeUnknown as unknown:
            return Outcome("info", None, str(unknown.reason), {"op_id": str(unknown.op_id)})
        except Unreachable as problem:
            return Outcome("fail", {"reason": "UNREACHABLE", "session": None}, problem.detail)
        except NoAnswer as problem:
            kind = "info" if problem.may_have_happened else "fail"
            return Outcome(kind, {"reason": "NO_ANSWER", "session": None}, problem.detail)
        except InvalidArgument as problem:
            return Outcome("fail", {"reason": "INVALID", "session": None}, str(problem))
        except RequestFailed as problem:
            return Outcome("info", {"reason": "FAILED", "session": None}, str(problem))

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()


def arguments(op: Op) -> dict[str, Any]:
    """The arguments as the API takes them."""
    given = dict(op.args)
    transport_id = given.pop("binding", None)
    if transport_id is not None:
        given["binding"] = Binding(transport_id, "udp", "198.51.100.7:4500")
    if not given.get("operator"):
        given.pop("operator", None)
    return given


def shown(session: Session | None) -> dict[str, Any] | None:
    """A session as histories show it."""
    if session is None:
        return None
    binding = None if session.binding is None else session.binding.transport_id
    return {**session.as_dict(), "binding": binding}
