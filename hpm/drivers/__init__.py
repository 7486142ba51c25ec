"""Whole jobs on files: coarse poses, refinement, one's own footage, evaluation, training."""
