"""`mmpsbn train` as a file, for torchrun and for those who know MMDetection."""

from mmpsbn.cli.train import main

if __name__ == '__main__':
    main()
