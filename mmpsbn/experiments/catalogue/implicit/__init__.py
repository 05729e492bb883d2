"""Implicit filter sparsity (Mehta et al., CVPR 2019)."""
