"""Output formats beyond the ``.pt``, one file each. A format takes a built CaffeNet, never a prototxt."""
