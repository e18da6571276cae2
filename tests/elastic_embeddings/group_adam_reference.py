"""Group Adam in float64 NumPy, row by row, written from the published algorithm."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class ReferenceRow:
    """One row and its state; unlike the code under test, it has a flag `touched`."""

    x: np.ndarray
    z: np.ndarray = field(init=False)
    m: np.ndarray = field(init=False)
    v: np.ndarray = field(init=False)
    touched: bool = False
    margin: float = np.inf

    def __post_init__(self):
        self.x = np.asarray(self.x, np.float64)
        self.z, self.m, self.v = (np.zeros_like(self.x) for _ in range(3))

    def learn(self, g, t, lr, b1=0.9, b2=0.999, eps=1e-8, l1=0.0, l2=0.0, l21=0.0):
        a = np.sqrt(1 - b2**t) / (1 - b1**t)
        self.m = b1 * self.m + (1 - b1) * g
        after = b2 * self.v + (1 - b2) * g * g
        grown = np.sqrt(after) - np.sqrt(self.v) + (0.0 if self.touched else eps)
        self.z = self.z + a * self.m - grown / lr * self.x
        self.v, self.touched = after, True
        s = np.clip(self.z, -l1, l1) - self.z
        norm, threshold = np.linalg.norm(s), l21 * np.sqrt(len(self.x))
        self.margin = (
            abs(norm - threshold) if l21 else np.inf
        )  # how far the row is from living or dying
        shrink = 0.0 if norm <= threshold else 1 - threshold / norm if norm else 0.0
        self.x = s * shrink / ((np.sqrt(self.v) + eps) / lr + 2 * l2)


@dataclass
class LazyAdamRow:
    """Plain Adam with epsilon hat, in float64; a row that is not learned stays as it is."""

    x: np.ndarray

    def __post_init__(self):
        self.x = np.asarray(self.x, np.float64)
        self.m, self.v = np.zeros_like(self.x), np.zeros_like(self.x)

    def learn(self, g, t, lr, b1=0.9, b2=0.999, eps=1e-8):
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g * g
        self.x = self.x - lr * np.sqrt(1 - b2**t) / (1 - b1**t) * self.m / (np.sqrt(self.v) + eps)
