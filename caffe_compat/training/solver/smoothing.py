"""The loss as Caffe shows it: averaged over the last iterations."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["SmoothedLoss"]


@dataclass
class SmoothedLoss:
    """Caffe's running mean of the last ``window`` losses (``UpdateSmoothedLoss``)."""

    window: int
    losses: list[float] = field(default_factory=list)
    index: int = 0
    smoothed: float = 0.0

    def add(self, loss: float) -> float:
        if len(self.losses) < self.window:
            self.losses.append(loss)
            count = len(self.losses)
            self.smoothed = (self.smoothed * (count - 1) + loss) / count
        else:
            place = self.index % self.window
            self.smoothed += (loss - self.losses[place]) / self.window
            self.losses[place] = loss
        self.index += 1
        return self.smoothed
