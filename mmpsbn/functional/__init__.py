"""Floor 0: pure functions of tensors (torch and the standard library only)."""
