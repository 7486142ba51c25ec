"""Parity as tests: what a parity.toml says, how each test of it runs, and what a failing one shows."""
