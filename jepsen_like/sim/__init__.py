"""A whole cluster in one process, on virtual time: one seed decides everything that happens.

The production code of the nodes runs unchanged; `loop`, `disk`, `storage`, `audit` and `network` stand where the event
loop, the disk, the threads and the sockets would be. `plan` draws a run from its seed, `load` and `faults` make it
happen, `run` judges it, `shrink` makes a failing one shorter, and `mutants` shows that the judges can tell.
"""
