"""The 3D Human Pose Machine in PyTorch."""
