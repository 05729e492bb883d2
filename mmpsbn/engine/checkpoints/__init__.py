"""What checkpoints carry of a pruned model, and how they are written and loaded."""
