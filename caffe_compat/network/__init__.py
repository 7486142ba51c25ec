"""From a definition and weights to a network that runs, and back to a ``.pt``."""
