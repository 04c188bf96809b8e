"""`python -m raftstore` is the `raftstore` command."""

from raftstore.cli.main import main

if __name__ == "__main__":
    main()
