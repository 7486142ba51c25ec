"""A net as one Python file of plain PyTorch: its layers' classes carried over, its weights beside it."""
