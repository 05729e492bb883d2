"""Floor 4: what a command line calls: training, pruning and exporting from files to files."""
