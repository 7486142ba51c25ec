"""Packaging of caffe-compat: the library caffe_compat, its output formats (converters) and the pose system (hpm)."""

from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {
    "images": ["opencv-python-headless>=4.8"],  # decoding and resizing as Caffe does them
    "lmdb": ["lmdb>=1.4"],
    "leveldb": ["plyvel-ci>=1.5"],
    "plots": ["matplotlib>=3.8", "pillow>=10", "imageio-ffmpeg>=0.5"],
    "tensorboard": ["tensorboard>=2.14"],
    "draw": ["pydot>=3"],  # pycaffe's pictures of networks; graphviz itself comes from the system
    "onnx": ["onnx>=1.16", "onnxruntime>=1.21"],  # writing .onnx and running it, with weights that lie beside it
    "openvino": ["onnx>=1.16", "onnxruntime>=1.21", "openvino>=2024.4"],
    "safetensors": ["safetensors>=0.4.3"],  # weights of other libraries, and of plain PyTorch source
    "parquet": ["pyarrow>=15"],  # features of images as tables
    "cluster": ["ray>=2.9"],  # features of images on many machines
    "detect": ["ai-edge-litert>=1.4", "onnxruntime>=1.21", "opencv-python-headless>=4.8"],  # 2D poses for hpm predict
    "h36m": ["cdflib>=1.2"],  # the official Human3.6M files
}

setup(
    name="caffe-compat",
    version="0.1.0",
    description="Run, verify and train Caffe models in PyTorch; the 3D Human Pose Machine on top.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-2-Clause",
    python_requires=">=3.10",
    packages=find_packages(include=["caffe_compat", "caffe_compat.*", "converters", "converters.*", "hpm", "hpm.*"]),
    package_data={
        "caffe_compat": ["py.typed", "resources/*", "schema/*.proto", "schema/dialects/*.proto"],
        "converters": ["py.typed"],
        "hpm": ["py.typed", "resources/*"],
    },
    install_requires=[
        "torch>=2.6",  # weights_only loading is unsafe before
        "numpy>=1.26",
        "protobuf>=4.22,<8",  # message_factory.GetMessageClass and unknown_fields
        "h5py>=3.8",  # opening read-only files without locks; the oldest that installs on Python 3.11
        "scipy>=1.11",
        "click>=8.1",  # the command line
        "rich>=13",  # its tables and progress bars
        "tomli>=2; python_version < '3.11'",  # parity.toml
    ],
    extras_require={
        **EXTRAS,
        "all": sorted({package for packages in EXTRAS.values() for package in packages}),
        "dev": [
            *("pytest>=8.1", "pytest-xdist>=3.6", "hypothesis>=6.100", "coverage>=7.10"),
            *("ruff", "mypy", "vermin>=1.6", "build>=1", "setuptools>=70.1"),
            "pygltflib>=1.16",  # reads what hpm predict exports for animation programs
        ],
    },
    py_modules=["caffe_compat_pytest"],  # outside the packages: pytest imports it in projects that want none of them
    entry_points={
        "console_scripts": ["caffe-compat = caffe_compat.cli:main", "hpm = hpm.cli:main"],
        "pytest11": ["caffe-compat = caffe_compat_pytest"],
        "caffe_compat.engines": [  # what net.optimize(engine=...) can choose
            "onnxruntime = converters.engines:ONNXRUNTIME",
            "openvino = converters.engines:OPENVINO",
        ],
    },
)
