"""Packaging; everything else about the tools is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    name="dyenet",
    version="0.1.0",
    description="Video object segmentation by re-identification and recurrent mask propagation",
    python_requires=">=3.10",
    packages=find_packages(
        include=[
            f"{name}{rest}"
            for name in ("pipeline", "training", "stages", "models", "cache")
            for rest in ("", ".*")
        ]
    ),
    py_modules=["dyenet"],
    package_data={"models": ["pretrained/*.safetensors"], "pipeline.pages": ["*.html"]},
    install_requires=[
        "luigi>=3.6",
        "torch>=2.4",
        "torchvision>=0.19",
        "h5py>=3.11",
        "hdf5plugin>=5.0",
        "numpy>=1.26",
        "pandas>=2.2",
        "opencv-python>=4.10",
        "av>=17",
        "safetensors>=0.4.5",
        "pillow>=10.3",
        "kornia-rs>=0.2,<0.3",
        "tqdm>=4.66",
        "jinja2>=3.1",
        "scipy>=1.13",
    ],
    extras_require={
        "parquet": ["pyarrow>=16"],
        "dev": [
            "pytest>=8.2",
            "hypothesis>=6.100",
            "ruff>=0.6",
            "mypy>=1.11",
            "pandas-stubs>=2.2",
            "types-tqdm",
            "pyarrow>=16",
            "selenium>=4.20",
            "pycocotools>=2.0.8",
        ],
    },
    entry_points={"console_scripts": ["dyenet = pipeline.cli:main"]},
)
