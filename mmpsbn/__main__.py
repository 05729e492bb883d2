"""``python -m mmpsbn``, which torchrun starts on every rank."""

from .cli import main

if __name__ == '__main__':
    main()
