"""Networks for the sweep over parameters of FlowNet 2's augmentation, of which no case is stored."""

from __future__ import annotations

from collections.abc import Iterator

from tests.layers.sweep import Base, from_text
from tests.layers.sweep_forks import FLOWNET2, net_text

_AXES = "".join(f"chromatic_eigvec: {x} " for x in (0.5, 0.6, 0.6, 0.8, 0, -0.6, 0.4, -0.8, 0.4))
_COIN = 'rand_type: "uniform_bernoulli" prob: 0.95 mean: 0.3 spread: 0.2'
_SCHEDULE = "coeff_schedule_param { half_life: 3 initial_coeff: 0.5 final_coeff: 2 }"


def augmentation_bases() -> Iterator[Base]:
    """The networks; each says for which parameters it is there."""

    def data(settings: str, more: str = "") -> Base:
        text = f'type: "DataAugmentation" top: "y" augmentation_param {{ {settings} }} {more}'
        return from_text(net_text(text, x=(2, 3, 6, 7)), dialect=FLOWNET2)

    cut = "crop_width: 4 crop_height: 3 augment_during_test: true"
    yield data(
        f"{cut} brightness {{ {_COIN} }} col_rotate {{ {_COIN} }} {_AXES} max_multiplier: 0.6", f'top: "c" {_SCHEDULE}'
    )
    # A mean that is learned, of pixels or not; one that is given.
    yield data("recompute_mean: 1 mean_per_pixel: false")
    yield data("mean: 0.1 mean: 0.2 mean: 0.3 mean_per_pixel: false")

    def drawn(settings: str, **bottoms: tuple[int, ...]) -> Base:
        text = f'type: "GenerateAugmentationParameters" top: "c" augmentation_param {{ {settings} }} {_SCHEDULE}'
        return from_text(net_text(text, **bottoms), dialect=FLOWNET2)

    place = "augment_during_test: true translate { spread: 0.3 } gamma { mean: 0.3 spread: 0.2 }"
    yield drawn(f"crop_width: 4 crop_height: 3 {place}", x=(2, 3, 6, 7))
    # Sizes that no bottom tells, and what is there before.
    yield drawn(f"crop_width: 4 crop_height: 3 bottomwidth: 7 bottomheight: 6 {place}", c0=(2, 42))
    yield drawn(place, c0=(2, 42), x=(2, 3, 6, 7), part=(2, 3, 3, 4))
    text = 'type: "FlowAugmentation" top: "y" augmentation_param { crop_width: 4 crop_height: 3 }'
    yield from_text(net_text(text, flow=(2, 2, 6, 7), one=(2, 42), other=(2, 42)), dialect=FLOWNET2)
