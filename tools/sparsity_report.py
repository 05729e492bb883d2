"""`mmpsbn report` as a file."""

from mmpsbn.cli.report import main

if __name__ == '__main__':
    main()
