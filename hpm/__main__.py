"""``python -m hpm`` is the command ``hpm``."""

from .cli import main

if __name__ == "__main__":
    main()
