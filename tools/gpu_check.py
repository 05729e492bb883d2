"""Is everything right on this machine's GPU, and how fast is it? In one command; docs/gpu.md."""

import os
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parent

if __name__ == '__main__':
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # for deterministic algorithms
    sys.path[:0] = [str(TOOLS), str(TOOLS / 'benchmarks'), str(TOOLS.parent)]  # the clone's mmpsbn
    from gpu.command import main

    main()
