"""Kinds of file, one module each: how their bytes and text are read and written."""
