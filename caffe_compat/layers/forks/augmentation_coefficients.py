"""How FlowNet 2's augmentation layers draw what they do to a picture, and how they write it down as numbers.

Source: lmb-freiburg/flownet2 (commit b92e198b5), ``augmentation_layer_base.cpp`` and ``util/rng.cpp``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...network.registry import LayerSpec
from ...schema.params import Params

__all__ = ["COEFFICIENTS", "Augmentation", "Chance", "Schedule", "Space", "augmentation_of", "read", "written"]

_EIGEN = [f"{name}_{mean}{k}" for mean in ("nomean", "withmean") for name in ("pow", "add", "mult") for k in range(3)]
COEFFICIENTS = (
    *("mirror", "dx", "dy", "angle", "zoom_x", "zoom_y"),
    *("gamma", "brightness", "contrast", "color1", "color2", "color3"),
    *(*_EIGEN, "lmult_pow", "lmult_add", "lmult_mult", "col_angle"),
    *("fog_amount", "fog_size", "motion_blur_angle", "motion_blur_size"),
    *("shadow_angle", "shadow_distance", "shadow_strength", "noise"),
)
"""In the order in which a blob has them."""

_FACTORS = ("zoom", "gamma", "contrast", "color", "pow", "mult", "lmult_pow", "lmult_mult")
# What a coefficient is where nothing is done: 1 of factors and exponents, 0 of what is added. A blob has the logarithm
# of the former, so that two lists of coefficients one after the other are their sum.
NEUTRAL = torch.tensor([float(name.startswith(_FACTORS)) for name in COEFFICIENTS])


def written(coefficients: Tensor) -> Tensor:
    """Coefficients (N, 42) as a blob has them."""
    return torch.where(NEUTRAL.to(coefficients) == 1, coefficients.log(), coefficients)


def read(blob: Tensor) -> Tensor:
    """The coefficients (N, 42) of a blob (N, 42, ...)."""
    flat = blob.flatten(1)
    return torch.where(NEUTRAL.to(flat) == 1, flat.exp(), flat)


class Chance:
    """Draws of one layer, one after the other; None draws from torch's global generator."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self._generator = generator

    def uniform(self, middle: float, half: float) -> float:
        return middle + half * (2 * float(torch.rand((), generator=self._generator)) - 1)

    def gaussian(self, mean: float, deviation: float) -> float:
        return mean + deviation * float(torch.randn((), generator=self._generator))

    def happens(self, probability: float) -> bool:
        return float(torch.rand((), generator=self._generator)) < probability

    def noise(self, like: Tensor, deviation: float) -> Tensor:
        drawn = torch.randn(like.shape, generator=self._generator)
        return deviation * drawn.to(like)


_KINDS = ("uniform", "gaussian", "bernoulli", "uniform_bernoulli", "gaussian_bernoulli")


@dataclass(frozen=True)
class _Draw:
    """A ``RandomGeneratorParameter``."""

    kind: str
    exp: bool
    mean: float
    spread: float
    probability: float
    scheduled: bool
    whole: bool
    multiplier: float

    def number(self, chance: Chance, discount: float, otherwise: float | None = None) -> float:
        """A number; ``otherwise`` where a coin decides whether there is one, and decides that there is none."""
        value = self._drawn(chance, discount)
        if value is None:
            if otherwise is not None:
                return otherwise
            value = 1.0 if self.exp else 0.0
        if self.whole:  # halves away from zero, as C rounds
            value = math.copysign(math.floor(abs(value) + 0.5), value)
        return self.multiplier * value

    def truth(self, chance: Chance) -> bool:
        """As a yes or no. The fork passes the neutral value where the discount belongs, so that nothing is spread."""
        value = self._drawn(chance, 0.0)
        return bool(self.multiplier) and (self.exp if value is None else bool(value))

    def _drawn(self, chance: Chance, discount: float) -> float | None:
        """None if a coin decides that there is no number."""
        if self.kind == "bernoulli":
            return float(chance.happens(self.probability))
        if self.kind.endswith("_bernoulli") and not chance.happens(self.probability):
            return None
        spread = self.spread * discount if self.scheduled else self.spread
        draw = chance.gaussian if self.kind.startswith("gaussian") else chance.uniform
        value = draw(self.mean, spread) if spread > 0 else self.mean
        return math.exp(value) if self.exp else value


@dataclass(frozen=True)
class Schedule:
    """How far the draws are spread as passes go by: from ``first`` to ``last``, half of the way in ``half_life``."""

    first: float
    last: float
    half_life: float

    def discount(self, passes: float) -> float:
        return self.first + (self.last - self.first) * (2 / (1 + math.exp(-1.0986 * passes / self.half_life)) - 1)


@dataclass(frozen=True)
class Space:
    """Sizes of a picture (width, height) and of what is cut out of it."""

    whole: tuple[int, int]
    cut: tuple[int, int]


_SPATIAL = ("mirror", "translate", "translate_x", "translate_y", "rotate", "zoom", "squeeze")
# Which coefficients a setting draws, each anew.
_COLOURS = {
    "gamma": ("gamma",),
    "brightness": ("brightness",),
    "contrast": ("contrast",),
    "color": ("color1", "color2", "color3"),
}
_EIGENS = {
    "ladd_pow": ("pow_nomean0",),
    "col_pow": ("pow_nomean1", "pow_nomean2"),
    "ladd_add": ("add_nomean0",),
    "col_add": ("add_nomean1", "add_nomean2"),
    "ladd_mult": ("mult_nomean0",),
    "col_mult": ("mult_nomean1", "mult_nomean2"),
    "sat_pow": ("pow_withmean1",),
    "sat_add": ("add_withmean1",),
    "sat_mult": ("mult_withmean1",),
    "lmult_pow": ("lmult_pow",),
    "lmult_mult": ("lmult_mult",),
    "lmult_add": ("lmult_add",),
    "col_rotate": ("col_angle",),
}
# Settings of which one brings the others, by their defaults, with it.
_EFFECTS = (
    ("fog_amount", "fog_size"),
    ("motion_blur_angle", "motion_blur_size"),
    ("shadow_angle", "shadow_distance", "shadow_strength"),
)
_TRIES = 50

_Values = dict[str, float]


@dataclass(frozen=True)
class Augmentation:
    """What is drawn, by the name of the setting."""

    draws: Mapping[str, _Draw]
    absent: _Draw

    @property
    def spatial(self) -> bool:
        return not self.draws.keys().isdisjoint(_SPATIAL)

    def placed(self, before: _Values, chance: Chance, discount: float, space: Space) -> _Values:
        """Spatial coefficients on top of those ``before``, for which all corners of the cut lie in the picture.

        After :data:`_TRIES` draws those ``before`` stay as they are, even if the last draw would do, as in the fork.
        """
        for count in range(1, _TRIES + 1):
            after = _combined(before, dict(self._drawn_in_space(chance, discount)))
            if _corners_fit(after, space):
                return after if count < _TRIES else before
        return before

    def _drawn_in_space(self, chance: Chance, discount: float) -> Iterator[tuple[str, float]]:
        draws = self.draws
        if "mirror" in draws:
            yield "mirror", float(draws["mirror"].truth(chance))
        for setting, names in (("translate", ("dx", "dy")), ("translate_x", ("dx",)), ("translate_y", ("dy",))):
            for name in names if setting in draws else ():
                yield name, draws[setting].number(chance, discount, 0.0)
        if "rotate" in draws:
            yield "angle", draws["rotate"].number(chance, discount, 0.0)
        zoom = draws["zoom"].number(chance, discount, 1.0) if "zoom" in draws else 1.0
        squeeze = draws["squeeze"].number(chance, discount, 1.0) if "squeeze" in draws else 1.0
        if "zoom" in draws or "squeeze" in draws:
            yield from (("zoom_x", zoom * squeeze), ("zoom_y", zoom / squeeze))

    def others(self, chance: Chance, discount: float) -> Iterator[_Values]:
        """Colours, colours along given axes, and effects, each if something of it is drawn."""
        colours, eigens, effects = (
            dict(part(chance, discount)) for part in (self._colours, self._eigens, self._effects)
        )
        yield from (part for part in (colours, eigens, effects) if part)

    def _colours(self, chance: Chance, discount: float) -> Iterator[tuple[str, float]]:
        for setting, names in _COLOURS.items():
            for name in names if setting in self.draws else ():
                yield name, self.draws[setting].number(chance, discount)

    def _eigens(self, chance: Chance, discount: float) -> Iterator[tuple[str, float]]:
        for setting, names in _EIGENS.items():
            for name in names if setting in self.draws else ():
                value = self.draws[setting].number(chance, discount)
                yield name, value
                if setting.startswith("sat_"):  # saturation is the length of two coordinates
                    yield name.replace("1", "2"), value

    def _effects(self, chance: Chance, discount: float) -> Iterator[tuple[str, float]]:
        for settings in _EFFECTS:
            for name in settings if not self.draws.keys().isdisjoint(settings) else ():
                yield name, self.draws.get(name, self.absent).number(chance, discount, 0.0)
        if "noise" in self.draws:
            yield "noise", self.draws["noise"].number(chance, discount)


def _combined(first: _Values, second: _Values) -> _Values:
    """One after the other: factors multiply, the rest adds up."""
    after = dict(first)
    for name, value in second.items():
        after[name] = after.get(name, 1) * value if name.startswith(_FACTORS) else after.get(name, 0) + value
    return after


def _corners_fit(values: _Values, space: Space) -> bool:
    """Whether all four corners of what is cut out come from within the picture."""
    (width, height), (across, down) = space.whole, space.cut
    sign = -1 if values.get("mirror", 0) else 1
    angle = values.get("angle", 0)
    for x in (0, across - 1):
        for y in (0, down - 1):
            right, below = sign * (x - 0.5 * across), y - 0.5 * down
            turned = (
                math.cos(angle) * right - math.sin(angle) * below,
                math.sin(angle) * right + math.cos(angle) * below,
            )
            column = (turned[0] + values.get("dx", 0) * across) / values.get("zoom_x", 1) + 0.5 * width
            row = (turned[1] + values.get("dy", 0) * down) / values.get("zoom_y", 1) + 0.5 * height
            if not (0 <= math.floor(column) <= width - 2 and 0 <= math.floor(row) <= height - 2):
                return False
    return True


def augmentation_of(spec: LayerSpec, params: Params) -> Augmentation:
    """What an ``augmentation_param`` says is drawn. Raises LayerError: a kind of draws that does not exist."""
    settings = (*_SPATIAL, *_COLOURS, *_EIGENS, *(name for names in _EFFECTS for name in names), "noise")
    draws = {name: _draw(spec, name, getattr(params, name)) for name in settings if params.has(name)}
    return Augmentation(draws, _Draw("uniform", False, 0.0, 0.0, 1.0, True, False, 1.0))


def _draw(spec: LayerSpec, name: str, params: Params) -> _Draw:
    if params.rand_type not in _KINDS:
        spec.fail(f"{name}: rand_type {params.rand_type!r}; one of {', '.join(_KINDS)} was expected")
    kind = str(params.rand_type)
    if kind == "bernoulli":
        params.ignore("exp", "mean", "spread", "apply_schedule")  # a coin is all there is
        return _Draw(kind, False, 0, 0, params.prob, False, params.discretize, params.multiplier)
    if not kind.endswith("_bernoulli"):
        params.ignore("prob")
    return _Draw(
        kind,
        params.exp,
        params.mean,
        params.spread,
        params.prob if kind.endswith("_bernoulli") else 1.0,
        params.apply_schedule,
        params.discretize,
        params.multiplier,
    )
