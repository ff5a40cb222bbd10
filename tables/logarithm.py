"""Natural logarithm of a ratio with the same bits on every CPU: only + - * / in a fixed order, no libm.

Source: fdlibm e_log.c (Sun Microsystems, 1993): log((1 + s) / (1 - s)) = 2s + s R(s^2), here with
s = (a - b) / (a + b), which keeps full precision where a and b are close. Error below 1.5 ulp.
"""

from __future__ import annotations

from tables.compiled import inner

_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10
_SQRT2 = 1.4142135623730951
_L1 = 6.666666666666735130e-01
_L2 = 3.999999999940941908e-01
_L3 = 2.857142874366239149e-01
_L4 = 2.222219843214978396e-01
_L5 = 1.818357216161805012e-01
_L6 = 1.531383769920937332e-01
_L7 = 1.479819860511658591e-01


@inner
def log_ratio(a: float, b: float) -> float:
    """log(a / b) of two positive finite numbers."""
    power = 0
    # Halving and doubling are exact.
    while a > b * _SQRT2:
        b *= 2.0
        power += 1
    while b > a * _SQRT2:
        a *= 2.0
        power -= 1
    s = (a - b) / (a + b)
    z = s * s
    w = z * z
    odd = z * (_L1 + w * (_L3 + w * (_L5 + w * _L7)))
    even = w * (_L2 + w * (_L4 + w * _L6))
    near = s * (odd + even)
    if power == 0:
        return 2.0 * s + near
    return power * _LN2_HIGH + (2.0 * s + (near + power * _LN2_LOW))
