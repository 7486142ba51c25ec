"""What may differ from the original networks."""

from __future__ import annotations

from dataclasses import dataclass

from caffe_compat.errors import UsageError

__all__ = ["ORIGINAL", "NetworkOptions", "scaled_channels"]


def scaled_channels(scale: float) -> tuple[int, int, int, int, int, int]:
    """The original's channels times ``scale``, rounded, at least one each: for :attr:`NetworkOptions.channels`."""
    a, b, c, d, e, f = (max(1, round(n * scale)) for n in NetworkOptions.channels)
    return a, b, c, d, e, f


@dataclass(frozen=True)
class NetworkOptions:
    """What may differ from the original.

    Attributes:
        image_size: side of the square images, pixels. The trunk divides it by 8; the pose networks need 49 or more.
        batch: images per batch at TRAIN: frames of one window (5), images of the CPM networks (1; 4 with heat maps).
            None is the original's number; so for ``test_batch``.
        test_batch: frames per window at TEST and in the deploy network (5; 4 in mask3d and deploy; 1 in the CPM).
        mpii_batch: MPII images that join each TRAIN batch of the networks that train the projector.
        channels: of the trunk's four blocks, of the last block's ``_CPM`` layers, and of the features they end in.
        hidden: size of ``fc`` and of both LSTMs. projector: size of the correction module's and projector's layers.
        shuffle: False reads the lists in order, for runs that must repeat.
        mask_probability: of a joint in mask3d at TRAIN; negative masks none.
        train_list, test_list, mpii_list: the lists that the data layers read. h36m_root, mpii_root: put before their
            image paths as they are, so end them in a slash.
        bounds: the CSV of maxima and minima. norm_csv, unnorm_csv, change_csv: what the networks write at TEST: the
            prediction as it is, the prediction in millimetres, the correction module's output in millimetres.

    Raises:
        UsageError: a size that is no positive number.
    """

    image_size: int = 368
    batch: int | None = None
    test_batch: int | None = None
    mpii_batch: int = 3
    channels: tuple[int, int, int, int, int, int] = (64, 128, 256, 512, 256, 128)
    hidden: int = 1024
    projector: int = 1024
    shuffle: bool = True
    mask_probability: float = 0.02
    train_list: str = "h36m/16skel_train_2d3d_clip.txt"
    test_list: str = "h36m/16skel_test_2d3d_clip.txt"
    mpii_list: str = "MPII/annotation/train_h36m.txt"
    h36m_root: str = "h36m/"
    mpii_root: str = "MPII/"
    bounds: str = "h36m/16point_mean_limb_scaled_max_min.csv"
    norm_csv: str = "RESULT_norm.csv"
    unnorm_csv: str = "RESULT_unnorm.csv"
    change_csv: str = "RESULT_change_unnorm.csv"

    def __post_init__(self) -> None:
        if len(self.channels) != 6:
            raise UsageError(f"channels has {len(self.channels)} numbers; 6 were expected (see scaled_channels)")
        sizes = {"batch": self.batch, "test_batch": self.test_batch, "mpii_batch": self.mpii_batch}
        sizes |= {"image_size": self.image_size, "hidden": self.hidden, "projector": self.projector}
        sizes |= {f"channels[{i}]": n for i, n in enumerate(self.channels)}
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise UsageError(f"{name} is {size}; 1 or more was expected")

    def train_frames(self, original: int = 5) -> int:
        """Images per batch at TRAIN."""
        return original if self.batch is None else self.batch

    def test_frames(self, original: int = 5) -> int:
        """Images per batch at TEST."""
        return original if self.test_batch is None else self.test_batch


ORIGINAL = NetworkOptions()
"""The original's sizes; the files are relative to the working folder."""
