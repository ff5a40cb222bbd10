"""Sine and cosine of a fraction of a turn with the same bits on every CPU: integers, then + - * / in a fixed order.

Source: fdlibm k_sin.c and k_cos.c (Sun Microsystems, 1993), on [0, pi/4] after an exact reduction by octants. Error
below 1.5 ulp.
"""

from __future__ import annotations

from tables.compiled import inner

_QUARTER_PI = 7.85398163397448278999e-01
_S1 = -1.66666666666666324348e-01
_S2 = 8.33333333332248946124e-03
_S3 = -1.98412698298579493134e-04
_S4 = 2.75573137070700676789e-06
_S5 = -2.50507602534068634195e-08
_S6 = 1.58969099521155010221e-10
_C1 = 4.16666666666666019037e-02
_C2 = -1.38888888888741095749e-03
_C3 = 2.48015872894767294178e-05
_C4 = -2.75573143513906633035e-07
_C5 = 2.08757232129817482790e-09
_C6 = -1.13596475577881948265e-11


@inner
def _sine(x: float) -> float:
    z = x * x
    return x + x * z * (_S1 + z * (_S2 + z * (_S3 + z * (_S4 + z * (_S5 + z * _S6)))))


@inner
def _cosine(x: float) -> float:
    z = x * x
    return 1.0 - (0.5 * z - z * z * (_C1 + z * (_C2 + z * (_C3 + z * (_C4 + z * (_C5 + z * _C6))))))


@inner
def _reduced(part: int, whole: int) -> tuple[int, float]:
    """The octant of a fraction of a turn, and its angle from the octant's nearer axis, at most pi/4."""
    octant = 8 * part // whole
    rest = 8 * part - octant * whole
    # Odd octants are read from their end.
    return octant, float(whole - rest if octant % 2 else rest) / float(whole) * _QUARTER_PI


@inner
def sine_of_turn(part: int, whole: int) -> float:
    """sin(2 pi * part / whole) for 0 <= part < whole < 2**60."""
    octant, angle = _reduced(part, whole)
    value = _cosine(angle) if octant in (1, 2, 5, 6) else _sine(angle)
    return value if octant < 4 else -value


@inner
def cosine_of_turn(part: int, whole: int) -> float:
    """cos(2 pi * part / whole) for 0 <= part < whole < 2**60."""
    octant, angle = _reduced(part, whole)
    value = _sine(angle) if octant in (1, 2, 5, 6) else _cosine(angle)
    return -value if octant in (2, 3, 4, 5) else value
