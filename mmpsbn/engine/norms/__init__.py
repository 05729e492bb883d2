"""Which parameters of the norms train, how they decay, and where psBN's alpha comes from."""
