"""Layer types that only the 3Dpose_ssl fork has."""
