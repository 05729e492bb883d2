"""What SparsityHook watches of a training, and what it says when channels die."""
