"""Python layers that everybody has, one family a file: classes of well-known programs, built in as torch operations."""
