"""The benchmark: raftstore beside others and beside the machine's own limits, in one run.

plan        what is measured, and in which order: peers in turn, round after round
peers/      how each peer's three nodes are started, stopped and counted
targets/    one version-checked transition and one read, on each peer, inside a process of callers
host, load  that process, and the callers in it
limits      what the disk, the loopback and the serializer of this machine do
trials/     what a comparison does not show: outages, a minority, idle nodes, full load for long
parts, findings   the parts of a run in order, and the table of targets that all of them fill
histogram, processes, results, plot, command
"""
