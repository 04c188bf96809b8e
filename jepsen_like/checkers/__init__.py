"""Checkers: what a history, and the last state of each node, prove or disprove. An oracle that stands for itself.

Imports nothing of the code under test, only `jepsen_like.history`; the audit format and the ownership model are written
down here a second time. Each file answers one question: `check(history, test, finals=None)` gives a `Verdict`.
`compose.check_all` asks them all.
"""
