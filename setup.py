"""Direct dependencies with their bounds; exact versions are pinned in constraints.txt, reasons in docs/decisions/."""

from setuptools import find_packages, setup

setup(
    name="umair",
    version="0.1.0",
    description="Weekly multi-modal recommendation of illustrations: UMAIR-FPS on Spark, Petastorm and Horovod",
    packages=find_packages(include=["umair", "umair.*"]),
    package_data={"umair.evaluation": ["*.j2"]},
    python_requires=">=3.11,<3.13",
    install_requires=[
        "pyspark>=3.5,<4.1",  # 4.1 needs pyarrow >= 15, which no petastorm release can use
        "petastorm>=0.12.1,<0.13",  # 0.13.1 loses rows in silence
        "pyarrow>=14.0.2,<15",
        "numpy>=1.26,<2",  # pyarrow 14 is built against numpy 1
        "pandas>=2.2,<2.4",
        "torch>=2.13,<2.14",
        "transformers>=5.23,<6",
        "sentence-transformers>=6.2,<7",
        "tokenizers>=0.22",
        "safetensors>=0.5",
        "pillow>=13,<14",
        "deltalake>=1.6,<2",
        "pydantic>=2.10,<3",
        "pyyaml>=6,<7",
        "jinja2>=3.1,<4",
        "markupsafe>=2.1",
        "matplotlib>=3.9,<4",
        "faiss-cpu>=1.12,<2",
        "fsspec>=2024.2",
        "scikit-learn>=1.5",
        "scipy>=1.11",
        "tqdm>=4.66",
        "psutil>=6",
        "setuptools>=77",  # petastorm imports pkg_resources' neighbours on Python 3.12
    ],
    extras_require={
        # 0.28.1 does not compile beside torch >= 2.1 as it is: cluster/build_horovod.sh builds the wheel first
        "horovod": ["horovod>=0.28.1,<0.29", "cloudpickle>=3", "cffi>=1.15"],
        "search": ["optuna>=5,<6"],  # umair search
        "dev": ["pytest>=8", "pytest-timeout>=2.3", "hypothesis>=6.100", "ruff>=0.12", "mypy>=1.15",
                "pandas-stubs>=2.2,<2.4", "types-PyYAML", "types-psutil", "types-tqdm"],
    },
    entry_points={"console_scripts": ["umair=umair.cli:main"]},
)
