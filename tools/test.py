"""`mmpsbn test` as a file, for torchrun and for those who know MMDetection."""

from mmpsbn.cli.test import main

if __name__ == '__main__':
    main()
