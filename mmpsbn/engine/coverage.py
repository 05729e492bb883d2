"""Which layers a forward pass calls: the traced pass must be the one that is trained."""

from torch import nn


class CalledLayers:
    """The names of the layers with parameters of their own that are called, until closed."""

    def __init__(self, model: nn.Module):
        self.names: set[str] = set()
        self._handles = [
            module.register_forward_pre_hook(self._note(name))
            for name, module in model.named_modules()
            if any(p is not None for p in module._parameters.values())
        ]

    def _note(self, name: str):
        return lambda module, args: self.names.add(name)

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
