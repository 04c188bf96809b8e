"""jepsen_like: breaks a raftstore cluster on purpose, in simulation and in real processes, and checks the promise.

This package will hold the workloads, nemeses, checkers and the simulator; its command line says what is there.
"""
