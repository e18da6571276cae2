"""Every rule in float64 NumPy, row by row, written from the formulas of the papers."""

import numpy as np


def proximal_point(z, a, l1, c, *, exact):
    """The new row, by the closed form or bisection for r = ‖x‖, and its threshold margin."""
    s = np.clip(z, -l1, l1) - z
    norm = np.linalg.norm(s)
    margin = abs(norm - c) if c else np.inf
    if norm <= c:
        return np.zeros_like(z), margin
    if not exact or c == 0:
        return s * (1 - c / norm) / a, margin
    low, high = 0.0, norm / a.min()
    for _ in range(200):
        r = (low + high) / 2
        low, high = (r, high) if np.linalg.norm(s / (a * r + c)) > 1 else (low, r)
    return s * high / (a * high + c), margin


class ReferenceRow:
    """One row and its state.

    The dual rules weight the gradient of step t with rate(t) / rate(0). The rest is in units of the
    base, rate(0).
    """

    def __init__(self, x, rate, l1=0.0, l2=0.0, l21=0.0, exact=False, factor=lambda count: 1.0):
        self.x = np.asarray(x, np.float64)
        self.rate = rate if callable(rate) else lambda t: rate
        self.base = self.rate(0)
        self.l1, self.l2, self.l21, self.exact, self.factor = l1, l2, l21, exact, factor
        self.margin, self.l1_margin, self.revivals = np.inf, np.full(len(self.x), np.inf), 0
        self.start()

    def settle(self, z, a, count):
        l1 = self.l1 * self.factor(count)
        was_zero = not self.x.any()
        threshold = self.l21 * np.sqrt(len(self.x)) if self.l21 else 0.0
        self.x, self.margin = proximal_point(z, a + 2 * self.l2, l1, threshold, exact=self.exact)
        self.l1_margin = np.abs(np.abs(z) - l1) if l1 else np.full(len(z), np.inf)
        self.revivals += was_zero and self.x.any()


class AdamRow(ReferenceRow):
    """Group Adam; `touched` is kept as a flag of its own, unlike in the code under test."""

    b1, b2, eps = 0.9, 0.999, 1e-8

    def start(self):
        self.z, self.m, self.v, self.v_max = (np.zeros_like(self.x) for _ in range(4))
        self.touched = False

    def learn(self, g, t, count=1):
        a = np.sqrt(1 - self.b2**t) / (1 - self.b1**t)
        self.m = self.b1 * self.m + (1 - self.b1) * g
        before, self.v = self.curved(), self.b2 * self.v + (1 - self.b2) * g * g
        self.v_max = np.maximum(self.v_max, self.v)
        after = self.curved()
        grown = np.sqrt(after) - np.sqrt(before) + (0.0 if self.touched else self.eps)
        self.z = self.z + self.rate(t) / self.base * a * self.m - grown / self.base * self.x
        self.touched = True
        self.settle(self.z, (np.sqrt(after) + self.eps) / self.base, count)

    def curved(self):
        return self.v

    def state(self):
        return np.concatenate([self.z, self.m, self.v])


class AmsgradRow(AdamRow):
    """Group AMSGrad: V_t = max(V_{t-1}, v_t)."""

    def curved(self):
        return self.v_max

    def state(self):
        return np.concatenate([self.z, self.m, self.v, self.v_max])


class FtrlRow(ReferenceRow):
    """FTRL-Proximal with a group term; z_0 keeps the initial row if `keep`."""

    beta, n_0, keep = 0.5, 0.1, True

    def start(self):
        self.n = np.full_like(self.x, self.n_0)
        self.z = -((self.beta + np.sqrt(self.n)) / self.base + 2 * self.l2) * self.x * self.keep

    def learn(self, g, t, count=1):
        sigma = (np.sqrt(self.n + g * g) - np.sqrt(self.n)) / self.base
        self.z = self.z + self.rate(t) / self.base * g - sigma * self.x
        self.n = self.n + g * g
        self.settle(self.z, (self.beta + np.sqrt(self.n)) / self.base, count)

    def state(self):
        return np.concatenate([self.z, self.n])


class ForgetfulFtrlRow(FtrlRow):
    """z_0 = 0, as TensorFlow and tfplus have it."""

    keep = False


class AdagradRow(FtrlRow):
    """Group Adagrad."""

    beta = 0.0


class RowwiseRow(ReferenceRow):
    """Monolith's group Adagrad: one accumulator, gradient step, exact prox with the step's rate."""

    beta = 0.5

    def start(self):
        self.total = 0.1

    def learn(self, g, t, count=1):
        self.total += np.max(g * g)
        eta = self.rate(t) / (self.beta + np.sqrt(self.total))
        self.settle(g - self.x / eta, np.full_like(self.x, 1 / eta), count)

    def state(self):
        return np.array([self.total])
