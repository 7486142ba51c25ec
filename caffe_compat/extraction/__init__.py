"""Blobs of a net for any number of images: read in parallel, kept in shards, resumable, on one machine or many.

>>> import caffe_compat
>>> from caffe_compat.extraction import extract, find_images
>>> from caffe_compat.inference.preprocess import Preprocess
>>> formats = "reference_outputs/formats"
>>> net = caffe_compat.load(f"{formats}/v1net.prototxt", f"{formats}/v1net.caffemodel")
>>> images = find_images(f"{formats}/images")
>>> how = Preprocess(resize=(8, 8), mean=(104.0, 117.0, 123.0))
>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     done = extract(net, images, f"{folder}/features.npy", blobs=["prob"], preprocess=how, workers=0)
>>> done.count, done.bad
(5, ())
"""

from .images import ImageRows, find_images
from .run import Extracted, extract
from .shards import BadRow

__all__ = ["BadRow", "Extracted", "ImageRows", "extract", "find_images"]
