"""DemP: penalty and noise at the optimizer's step, and prune events while training goes on."""
