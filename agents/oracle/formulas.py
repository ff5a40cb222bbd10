"""Formulas: decimals, slopes, moments, logarithm and circle, with the same bits on every CPU.

Every float operation is + - * / or the exact square root of IEEE 754, in the order written here: the order is part of
the definition. No function of libm but `sqrt`, and no `sum` of floats, whose order of operations is Python's affair.
Source: fdlibm e_log.c, k_sin.c, k_cos.c (Sun Microsystems, 1993).
"""

from __future__ import annotations

from collections.abc import Collection
from math import sqrt

POWERS = tuple(float(10**i) for i in range(19))


def decimal(number: float, step: int, scale: int) -> float:
    """number * step / 10**scale: one rounding while the product is below 2**53, so decimals come out as written."""
    return number * float(step) / POWERS[scale]


def moments(values: Collection[float]) -> tuple[float, float]:
    """Mean and standard deviation (ddof 1), both summed in the order given, the mean as a distance from the first.

    So equal values have their own value as mean and a deviation of exactly 0.
    """
    first = next(iter(values))
    total = 0.0
    for value in values:
        total += value - first
    mean = first + total / float(len(values))
    squares = 0.0
    for value in values:
        distance = value - mean
        squares += distance * distance
    return mean, sqrt(squares / float(len(values) - 1))


def least_squares_slope(xs: list[int], ys: list[int]) -> float:
    """Slope of the line through the points (x, y) that has the least squares; ZeroDivisionError if all x are one."""
    n = float(len(xs))
    mean_x, mean_y = float(sum(xs)) / n, float(sum(ys)) / n
    products = squares = 0.0
    for x, y in zip(xs, ys, strict=True):
        distance = float(x) - mean_x
        products += distance * (float(y) - mean_y)
        squares += distance * distance
    return products / squares


def log_ratio(a: float, b: float) -> float:
    """Natural logarithm of a / b, both positive: log((1 + s) / (1 - s)) = 2s + s R(s^2), s = (a - b) / (a + b)."""
    power = 0
    while a > b * 1.4142135623730951:
        b *= 2.0
        power += 1
    while b > a * 1.4142135623730951:
        a *= 2.0
        power -= 1
    s = (a - b) / (a + b)
    z = s * s
    w = z * z
    odd = z * (6.666666666666735130e-01 + w * (2.857142874366239149e-01 + w * (
        1.818357216161805012e-01 + w * 1.479819860511658591e-01)))  # fmt: skip
    even = w * (3.999999999940941908e-01 + w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01))
    near = s * (odd + even)
    if power == 0:
        return 2.0 * s + near
    return power * 6.93147180369123816490e-01 + (2.0 * s + (near + power * 1.90821492927058770002e-10))


def _sine(x: float) -> float:
    """On [0, pi / 4]."""
    z = x * x
    return x + x * z * (-1.66666666666666324348e-01 + z * (8.33333333332248946124e-03 + z * (
        -1.98412698298579493134e-04 + z * (2.75573137070700676789e-06 + z * (
            -2.50507602534068634195e-08 + z * 1.58969099521155010221e-10)))))  # fmt: skip


def _cosine(x: float) -> float:
    """On [0, pi / 4]."""
    z = x * x
    return 1.0 - (0.5 * z - z * z * (4.16666666666666019037e-02 + z * (-1.38888888888741095749e-03 + z * (
        2.48015872894767294178e-05 + z * (-2.75573143513906633035e-07 + z * (
            2.08757232129817482790e-09 + z * -1.13596475577881948265e-11))))))  # fmt: skip


def circle(part: int, whole: int) -> tuple[float, float]:
    """Sine and cosine of 2 pi * part / whole, 0 <= part < whole. The angle is reduced to an octant by integers."""
    octant, rest = divmod(8 * part, whole)
    angle = float(whole - rest if octant % 2 else rest) / float(whole) * 7.85398163397448278999e-01
    sine, cosine = _sine(angle), _cosine(angle)
    if octant in (1, 2, 5, 6):
        sine, cosine = cosine, sine
    return sine if octant < 4 else -sine, -cosine if octant in (2, 3, 4, 5) else cosine
