"""`mmpsbn reproduce` as a file."""

from mmpsbn.cli.reproduce import main

if __name__ == '__main__':
    main()
