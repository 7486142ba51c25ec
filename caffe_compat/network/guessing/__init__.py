"""Shapes of inputs that no file tells: what they probably are, and why.

A training network reads its pictures from a database, so neither their size nor what their labels look like stands in
the file. The weights, other phases, the names of well-known data and the layers that read an input tell much of it.
What is found is a guess and is said to be one: nobody gets a network with it who did not ask for it
(``guess_shapes=True``), and the network keeps its guesses.
"""

from __future__ import annotations

from ..guess import Guess
from .settling import guess_shapes_of, net_of

__all__ = ["Guess", "guess_shapes_of", "net_of"]
