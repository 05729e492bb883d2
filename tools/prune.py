"""`mmpsbn prune` as a file."""

from mmpsbn.cli.prune import main

if __name__ == '__main__':
    main()
