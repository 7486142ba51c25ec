"""What layers become in plain PyTorch, by family."""
