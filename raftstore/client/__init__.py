"""A node's API from elsewhere: the same methods, the same outcomes, over a Unix socket or HTTP."""

from raftstore.client.client import Client
from raftstore.client.problems import NoAnswer, RequestFailed, Unreachable
from raftstore.client.reading import Placed

__all__ = ["Client", "NoAnswer", "Placed", "RequestFailed", "Unreachable"]
