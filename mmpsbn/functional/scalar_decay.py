"""What weight decay alone does to a weight, under each optimizer (Mehta, figure 4).

A dead channel has no loss gradient, so its gamma follows the decay and nothing else. L2
puts lambda * w into the gradient, where an adaptive optimizer divides it by its own size;
decoupled decay (WD, section 2.1) multiplies w by 1 - lambda whatever the optimizer and its rate.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping

# An update rule is made of settings under their torch.optim names and maps the gradients, in
# turn, to directions d of w -= lr * d. Floats, as a step on tensors costs fifty times as much.
Rule = Callable[[float], float]


def _sgd(*, momentum: float, dampening: float, nesterov: bool) -> Rule:
    buffer = None

    def direction(grad: float) -> float:
        nonlocal buffer
        buffer = grad if buffer is None else momentum * buffer + (1 - dampening) * grad
        if not momentum:
            return grad
        return grad + momentum * buffer if nesterov else buffer

    return direction


def _adam(*, betas: tuple[float, float], eps: float, amsgrad: bool) -> Rule:
    beta1, beta2 = betas
    mean = square = largest = 0.0
    power1 = power2 = 1.0

    def direction(grad: float) -> float:
        nonlocal mean, square, largest, power1, power2
        mean += (1 - beta1) * (grad - mean)
        square = beta2 * square + (1 - beta2) * grad * grad
        largest = max(largest, square)
        power1 *= beta1
        power2 *= beta2
        used = largest if amsgrad else square
        return mean / (1 - power1) / (math.sqrt(used / (1 - power2)) + eps)

    return direction


def _adagrad(*, lr_decay: float, eps: float, initial_accumulator_value: float) -> Rule:
    total, step = initial_accumulator_value, 0

    def direction(grad: float) -> float:
        nonlocal total, step
        total += grad * grad
        step += 1
        return grad / (math.sqrt(total) + eps) / (1 + (step - 1) * lr_decay)

    return direction


def _adadelta(*, rho: float, eps: float) -> Rule:
    square = moved = 0.0

    def direction(grad: float) -> float:
        nonlocal square, moved
        square = rho * square + (1 - rho) * grad * grad
        delta = math.sqrt(moved + eps) / math.sqrt(square + eps) * grad
        moved = rho * moved + (1 - rho) * delta * delta
        return delta

    return direction


def _rmsprop(*, alpha: float, eps: float, momentum: float, centered: bool) -> Rule:
    square = mean = buffer = 0.0

    def direction(grad: float) -> float:
        nonlocal square, mean, buffer
        square = alpha * square + (1 - alpha) * grad * grad
        mean += (1 - alpha) * (grad - mean)
        used = square - mean * mean if centered else square
        buffer = momentum * buffer + grad / (math.sqrt(used) + eps)
        return buffer

    return direction


def _adamax(*, betas: tuple[float, float], eps: float) -> Rule:
    beta1, beta2 = betas
    mean = largest = 0.0
    power = 1.0

    def direction(grad: float) -> float:
        nonlocal mean, largest, power
        mean += (1 - beta1) * (grad - mean)
        largest = max(beta2 * largest, abs(grad) + eps)
        power *= beta1
        return mean / (1 - power) / largest

    return direction


RULES = {
    'SGD': _sgd,
    'Adam': _adam,
    'Adagrad': _adagrad,
    'Adadelta': _adadelta,
    'RMSprop': _rmsprop,
    'Adamax': _adamax,
}


def decay_curve(
    rule: str,
    *,
    start: float,
    lrs: Iterable[float],
    initial_lr: float,
    weight_decay: float,
    decoupled: bool,
    settings: Mapping,
    gradients: Iterable[float] | None,
) -> list[float]:
    """The weight before the first and after each step: w_0, w_1, ..., one per ``lrs``.

    The recursion of the optimizer from a fresh state, in double precision.

    Args:
        rule: one of :data:`RULES`; AMSGrad is Adam with ``amsgrad``.
        start: w_0.
        lrs: learning rate of each step, >= 0.
        initial_lr: lr_0 > 0, the learning rate before any schedule. A warmup begins below it.
        weight_decay: lambda >= 0.
        decoupled: w *= 1 - lambda * lr / lr_0 before the step instead of lambda * w in the
            gradient, as :func:`.decoupled_decay.decoupled` does. AdamW's own lambda is this
            one / lr_0.
        settings: the rule's own under their torch names, e.g. a param group of the
            optimizer; what the rule does not know is passed over.
        gradients: of the loss, one per step; None for a dead channel, whose gradient is 0.

    Raises:
        ValueError: an unknown rule, one of its settings missing, or lr_0 <= 0.
    """
    if not initial_lr > 0:
        raise ValueError(f'initial_lr must be > 0, got {initial_lr!r}')
    if rule not in RULES:
        raise ValueError(f'rule must be one of {sorted(RULES)}, got {rule!r}')
    names = list(inspect.signature(RULES[rule]).parameters)
    missing = [name for name in names if name not in settings]
    if missing:
        raise ValueError(f'{rule} needs the settings {names}, missing are {missing}')
    direction = RULES[rule](**{name: settings[name] for name in names})
    lrs = list(lrs)
    weight, curve = start, [start]
    grads = [0.0] * len(lrs) if gradients is None else gradients
    for lr, grad in zip(lrs, grads):
        if decoupled:
            weight *= 1 - weight_decay * lr / initial_lr
        else:
            grad += weight_decay * weight
        if gradients is not None or not decoupled:  # else no gradient of any kind, and no step
            weight -= lr * direction(grad)
        curve.append(weight)
    return curve
