"""What a process of callers does on each peer. A module is imported only in the process that needs its packages."""
