"""The experiments by their names on the command line, a module or two for each paper; what several
papers share is in ``_shared``."""

from . import bn_only, demp, demp_dead, finetune_tradeoff, implicit, implicit_layers, psbn

EXPERIMENTS = {
    name: experiment
    for module in (psbn, implicit, implicit_layers, bn_only, demp, demp_dead, finetune_tradeoff)
    for name, experiment in module.EXPERIMENTS.items()
}
