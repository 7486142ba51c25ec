"""Layer types that other forks added, one module per family."""
