"""All workloads by name."""

from __future__ import annotations

from jepsen_like.workloads.base import Workload
from jepsen_like.workloads.dataplane import DataPlane
from jepsen_like.workloads.lease import Lease
from jepsen_like.workloads.ownership import Ownership
from jepsen_like.workloads.register import Register
from jepsen_like.workloads.sticky import Sticky
from jepsen_like.workloads.transfer import Transfer

WORKLOADS: dict[str, Workload] = {
    workload.name: workload for workload in (Ownership(), Transfer(), Register(), Lease(), DataPlane(), Sticky())
}
