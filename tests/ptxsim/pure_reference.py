"""What the pure opcodes mean, in Python integers and fractions: written from the ISA, and from nothing of the machine's.

A float is (negative, magnitude): a Fraction, or INF, or None for a NaN. Values come and go as raw bits.
"""

from fractions import Fraction

import numpy as np

from treadle.codegen.ptxsim.pure import dtype, find

INF = "inf"
# name: (bits of precision, smallest and largest exponent of a normal number, width, canonical NaN)
FORMATS = {
    "f16": (11, -14, 15, 16, 0x7FFF),
    "bf16": (8, -126, 127, 16, 0x7FFF),
    "f32": (24, -126, 127, 32, 0x7FFFFFFF),
    "f64": (53, -1022, 1023, 64, None),
    "tf32": (11, -126, 127, 19, None),
}


def decode(bits, kind):
    precision, lowest, highest, width, _ = FORMATS[kind]
    fraction_bits = precision - 1
    negative = bool(bits >> (width - 1))
    exponent = (bits >> fraction_bits) & ((1 << (width - precision)) - 1)
    fraction = bits & ((1 << fraction_bits) - 1)
    if exponent == highest - lowest + 2:
        return negative, (None if fraction else INF)
    if exponent:
        fraction += 1 << fraction_bits
    return negative, Fraction(fraction) * Fraction(2) ** (max(exponent, 1) - 1 + lowest - fraction_bits)


def infinity(kind):
    precision, lowest, highest, _, _ = FORMATS[kind]
    return (highest - lowest + 2) << (precision - 1)


def encode(value, kind, mode="rn"):
    """The bits of (negative, magnitude), rounded."""
    negative, size = value
    precision, lowest, _, width, _ = FORMATS[kind]
    sign = int(negative) << (width - 1)
    if size is None:
        return "nan"
    if size == INF:
        return sign | infinity(kind)
    if size == 0:
        return sign
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    assert Fraction(2) ** exponent <= size < Fraction(2) ** (exponent + 1)
    exponent = max(exponent, lowest)
    steps = size / Fraction(2) ** (exponent - (precision - 1))
    whole, rest = divmod(steps.numerator, steps.denominator)
    rest = Fraction(rest, steps.denominator)
    up = {
        "rn": rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1),
        "rna": rest >= Fraction(1, 2),
        "rz": False,
        "rm": negative and rest > 0,
        "rp": not negative and rest > 0,
    }[mode]
    bits = ((exponent - lowest) << (precision - 1)) + whole + up
    if bits >= infinity(kind):
        away = mode in ("rn", "rna") or (mode == "rm" and negative) or (mode == "rp" and not negative)
        bits = infinity(kind) if away else infinity(kind) - 1
    return sign | bits


def flushed(value, kind):
    """A subnormal as a zero of its sign."""
    negative, size = value
    lowest = FORMATS[kind][1]
    return (negative, Fraction(0)) if size not in (None, INF) and size < Fraction(2) ** lowest else value


def signed(value):
    return -value[1] if value[0] else value[1]


def total(x, y, mode):
    """x + y."""
    if x[1] is None or y[1] is None or (x[1] == INF and y[1] == INF and x[0] != y[0]):
        return False, None
    if x[1] == INF or y[1] == INF:
        return x if x[1] == INF else y
    value = signed(x) + signed(y)
    if value == 0:
        return (x[0] if x[0] == y[0] else mode == "rm"), Fraction(0)
    return value < 0, abs(value)


def product(x, y):
    negative = x[0] != y[0]
    if x[1] is None or y[1] is None or (x[1] == INF and y[1] == 0) or (x[1] == 0 and y[1] == INF):
        return False, None
    return (negative, INF) if INF in (x[1], y[1]) else (negative, x[1] * y[1])


def quotient(x, y):
    negative = x[0] != y[0]
    if x[1] is None or y[1] is None or (x[1] == INF and y[1] == INF) or (x[1] == 0 and y[1] == 0):
        return False, None
    if x[1] == INF or y[1] == 0:
        return negative, INF
    return negative, (Fraction(0) if y[1] == INF else x[1] / y[1])


def root(value, kind, mode):
    """The bits of the square root: the last number whose square is not above, and by its midpoint with the next."""
    negative, size = value
    if size is None or (negative and size != 0):
        return "nan"
    if size == INF or size == 0:
        return encode(value, kind)
    low, high = 0, infinity(kind)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if decode(middle, kind)[1] ** 2 <= size else (low, middle)
    at, above = decode(low, kind)[1], decode(low + 1, kind)[1]
    if at * at == size or mode in ("rz", "rm"):
        return low
    return low + 1 if mode == "rp" or ((at + above) / 2) ** 2 < size else low


def raw(kind):
    """The unsigned dtype of a type's width, or bool."""
    of = dtype(kind)
    return of if of.kind == "b" else np.dtype(f"u{of.itemsize}")


def call(name, *columns, pair=False):
    """An instruction by its name over columns of raw bits: a list of results, or one such list for each of several."""
    opcode, *mods = name.split(".")
    pure = find(opcode, tuple(mods), pair)
    assert pure is not None, name
    arrays = [np.array(c, raw(t)).view(dtype(t)) for c, t in zip(columns, pure.args, strict=True)]
    kept = [a.copy() for a in arrays]
    with np.errstate(all="ignore"):
        results = pure.fn(*arrays)
    for a, b in zip(arrays, kept, strict=True):
        assert a.tobytes() == b.tobytes(), f"{name} wrote into an operand"
    results = results if len(pure.out) > 1 else (results,)
    lists = []
    for result, kind in zip(results, pure.out, strict=True):
        result = np.asarray(result)
        assert result.dtype == dtype(kind), (name, result.dtype)
        lists.append(result.view(raw(kind)).tolist())
    return lists[0] if len(lists) == 1 else lists


def compare(name, columns, expected, kind=None, canonical=False):
    """The results are those expected; "nan": any NaN of the kind, or the canonical one."""
    got = call(name, *columns)
    _, _, _, width, nan = FORMATS.get(kind, (0, 0, 0, 0, None))
    for i, (g, e) in enumerate(zip(got, expected, strict=True)):
        if e == "nan" and not canonical:
            e, g = True, g & ((1 << (width - 1)) - 1) > infinity(kind)
        right = g == (nan if e == "nan" else e)
        assert right, f"{name} of {[hex(c[i]) for c in columns]}: {hex(got[i])}, but should be {expected[i]}"


def edges(kind):
    """Bits of the values where things change, of both signs, NaNs among them."""
    precision, lowest, _, width, _ = FORMATS[kind]
    inf, one = infinity(kind), -lowest + 1 << (precision - 1)
    ulp = 1 << (precision - 1)
    positive = [0, 1, 2, 3, ulp - 1, ulp, ulp + 1, one - 1, one, one + 1, one + ulp // 2, one + ulp, one + ulp + 1]
    positive += [inf // 2, inf - 1, inf - 2, inf, inf + 1, inf + ulp // 2, inf + ulp - 1]
    return positive + [b | 1 << (width - 1) for b in positive]


def draw(kind, n, seed):
    """Raw bits: a third edges, a third anything, a third near 1 and with few bits set, whose sums and products tie."""
    rng = np.random.default_rng(seed)
    precision, lowest, _, width, _ = FORMATS[kind]
    special = edges(kind)
    some = [special[int(i)] for i in rng.integers(0, len(special), n // 3)]
    some += [int.from_bytes(rng.bytes(8), "little") >> (64 - width) for _ in range(n // 3)]
    while len(some) < n:
        exponent = -lowest + 1 + int(rng.integers(-precision - 1, precision + 2))
        few = int(rng.integers(0, 2)) << (precision - 2) | int(rng.integers(0, 2)) << int(rng.integers(0, precision - 1))
        exponent = min(max(exponent, 0), (infinity(kind) >> (precision - 1)) - 1)
        some.append(int(rng.integers(0, 2)) << (width - 1) | exponent << (precision - 1) | few)
    return [some[i] for i in rng.permutation(n)]


def integers(width, n, seed):
    """Raw bits: edges, small ones, anything."""
    rng = np.random.default_rng(seed)
    top = 1 << (width - 1)
    special = [0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 33, 63, 64, 65, 255, top - 1, top, top + 1, 2 * top - 1, 2 * top - 2]
    some = [special[int(i)] % (2 * top) for i in rng.integers(0, len(special), n // 2)]
    while len(some) < n:
        some.append((int.from_bytes(rng.bytes(8), "little") >> (64 - width)) >> int(rng.integers(0, width)))
    return [some[i] for i in rng.permutation(n)]


def wrap(value, kind):
    """The raw bits of an integer in a type."""
    return value & ((1 << int(kind[1:])) - 1)


def number(bits, kind):
    """The integer that raw bits are in a type."""
    width = int(kind[1:])
    return bits - (1 << width) if kind[0] == "s" and bits >> (width - 1) else bits
