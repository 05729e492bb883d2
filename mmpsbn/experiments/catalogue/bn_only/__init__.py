"""Training BatchNorm and only BatchNorm (Frankle et al., ICLR 2021)."""
