"""``python -m caffe_compat`` is the command ``caffe-compat``."""

from .cli import main

if __name__ == "__main__":
    main()
