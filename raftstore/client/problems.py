"""What can go wrong between a client and a node, beyond the outcomes that a node itself answers with."""

from __future__ import annotations

from raftstore.errors import RaftstoreError


class Unreachable(RaftstoreError):  # noqa: N818 - an outcome, not a failure
    """No connection to the node: the request was never sent, so it certainly did not happen."""

    def __init__(self, endpoint: str, detail: str) -> None:
        super().__init__(f"no answer from {endpoint}: {detail}")
        self.endpoint = endpoint
        self.detail = detail


class NoAnswer(RaftstoreError):  # noqa: N818 - an outcome, not a failure
    """Sent, and then the connection broke or the time ran out. `may_have_happened`: it was a request for a change."""

    def __init__(self, endpoint: str, detail: str, *, may_have_happened: bool) -> None:
        super().__init__(f"{endpoint}: {detail}")
        self.endpoint = endpoint
        self.detail = detail
        self.may_have_happened = may_have_happened


class RequestFailed(RaftstoreError):  # noqa: N818 - an outcome, not a failure
    """The other side answered, but not as a node's API does: a bug, a proxy, or another program. `status` is HTTP's."""

    def __init__(self, endpoint: str, status: int, detail: str) -> None:
        super().__init__(f"{endpoint}: HTTP {status}: {detail}")
        self.endpoint = endpoint
        self.status = status
        self.detail = detail
