"""Why filters collapse: Theorem 1 of the psBN paper and the two random walks of DemP.

All are exact or asymptotic formulas; :mod:`.simulation` plays the same games with dice.
"""

import math

import torch
from torch import Tensor


def theorem_one_k(u: Tensor) -> Tensor:
    """K(u) = (u^4 - 2) phi(u)^2 + (u - u^3) phi(u) Phi(u), psBN paper equation 5.

    u = beta / |gamma|, any shape. One SGD step of pure noise changes Phi(u), the probability that
    the activation is positive, by lr^2 c^2 / 2 * K(u) / gamma^2 on average, to second order
    (Theorem 1, equation 3: its mean over channels is the printed integral. J of equation 4 is the
    mean of K over beta, and negative if these are even.) The step is equation 1, of one sample:
    gamma -= lr * g * xhat * H and beta -= lr * g * H with H = [gamma * xhat + beta > 0],
    xhat ~ N(0, 1), E[g] = 0 and E[g^2] = c^2 (the text calls c the variance). The mean of g over N
    independent samples makes it N times smaller.

    K(0) = -1/pi; K < 0 for u > -1.153 and K > 0 below, at most 0.071: a channel that is hardly
    active gains by the noise on average, but little.

    The printed formula is right. With f = Phi(u), u = beta / gamma, the step's moments
    E[H] = Phi, E[xhat H] = phi, E[xhat^2 H] = Phi - u phi (times lr^2 c^2) and
    f_bb = -u phi, f_bg = (u^2 - 1) phi, f_gg = (2u - u^3) phi (over gamma^2) give K by
    collecting terms. Quadrature of the exact expectation at r = lr * c / |gamma| =
    1e-3 agrees with K to 1e-6 for u from -2 to 2, e.g. -0.318310 at u = 0; Monte-Carlo
    agrees within its errors. What is left out grows with r: at u = 0 the exact expectation
    is that of K = -0.3232 at r = 0.1, -0.369 at 0.3 and -0.109 at 1; at u = -1, where
    K = -0.0586, of -0.0481, +0.018 and +0.031. From r = 0.3 on it is an order of magnitude.
    """
    phi = torch.exp(-u.square() / 2) / math.sqrt(2 * math.pi)
    return (u**4 - 2) * phi.square() + (u - u**3) * phi * torch.special.ndtr(u)


def absorbing_survival(start: Tensor, *, diffusion: float, time: Tensor) -> Tensor:
    """P(w_t > 0) = erf(w_0 / sqrt(2 eta t)) for dw = sqrt(eta) dB, stopped at 0.

    DemP Proposition B.1.

    Args:
        start: w_0 > 0.
        diffusion: eta > 0, variance of w gained per unit of time. The paper calls it the
            learning rate: its SGD noise has variance eta * 1 a step.
        time: t > 0, broadcasts with ``start``. A walk with Gaussian steps at t = 1, 2, ...
            is not seen between its steps and survives more often: as if it had started
            0.5826 * sqrt(eta) higher (the constant is -zeta(1/2) / sqrt(2 pi); Chernoff 1965).
    """
    return torch.special.erf(start / (2 * diffusion * time).sqrt())


def geometric_rate(curvature: float, noise: Tensor, *, lr: float) -> float:
    """mu = E[log(1 - eta (h + zeta))], the rate at which log |w_t| grows per step.

    DemP Lemma B.2, for w_{t+1} = w_t - eta (h + zeta_t) w_t: |w_t| ~ |w_0| exp(mu t), and
    mu < 0 means it dies, even where h < 0 pushes it away from 0. (The paper's proof writes
    log(1 + ...) in its z_j and starts its product at 1; the lemma is right.)

    Args:
        curvature: h, an eigenvalue of the Hessian, of any sign.
        noise: values of zeta that are equally likely, shape (N,).
        lr: eta > 0.

    Raises:
        ValueError: eta (h + zeta) >= 1 for some zeta, where a step would cross 0.
    """
    factors = 1 - lr * (curvature + noise.double())
    if not bool((factors > 0).all()):
        raise ValueError(
            'lr * (curvature + noise) must be < 1, '
            f'got {1 - float(factors.min()):.3g} at lr={lr}, curvature={curvature}'
        )
    return float(factors.log().mean())


def geometric_rate_bound(curvature: float, noise_std: float, *, lr: float) -> float:
    """mu <= -eta h - eta^2/2 (h^2 + sigma^2) - eta^3/3 (h^3 + 3 h sigma^2).

    DemP equation 15, for noise that is symmetric about 0 with standard deviation sigma.
    Arguments as in :func:`geometric_rate`.
    """
    h, variance = curvature, noise_std**2
    second = h**2 + variance
    third = h**3 + 3 * h * variance
    return -lr * h - lr**2 / 2 * second - lr**3 / 3 * third
