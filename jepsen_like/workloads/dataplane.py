"""The data path itself: gateways answer a session's packets only while they own it, and a client asks all of them
all the time. The client is the resource that checks fencing tokens."""

from __future__ import annotations

from jepsen_like.cluster.programs import Program, Raftstore
from jepsen_like.workloads.lease import Lease


class DataPlane(Lease):
    """Ownership moves as in the `lease` workload."""

    name = "dataplane"
    sessions = 6
    probes_every_s = 0.0
    packets_per_s = 20.0

    def program(self, policy: str) -> Program:
        return Raftstore(policy=policy, gateway=True)
