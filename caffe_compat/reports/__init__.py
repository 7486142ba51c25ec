"""What can be told of networks and files without running them for their outputs."""
