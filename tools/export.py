"""`mmpsbn export` as a file."""

from mmpsbn.cli.export import main

if __name__ == '__main__':
    main()
