"""Data sets: made up (:mod:`.synthetic`) and prepared from what people have."""
