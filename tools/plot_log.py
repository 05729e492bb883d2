"""`mmpsbn plot` as a file."""

from mmpsbn.cli.plot import main

if __name__ == '__main__':
    main()
