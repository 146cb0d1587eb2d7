"""Maps the top-level folders onto one package: ir/ installs as treadle.ir, runtime/ as treadle.runtime, and so on.

The list of packages is computed, so that no new subpackage is forgotten; everything else is in pyproject.toml.
"""

from setuptools import find_namespace_packages, setup

PARTS = ["ir", "schedules", "codegen", "models", "runtime", "bench"]
ROOTS = {"treadle": "treadle", **{f"treadle.{part}": part for part in PARTS}}

packages = []
for name, folder in ROOTS.items():
    packages += [
        name,
        *(
            f"{name}.{sub}"
            for sub in find_namespace_packages(folder, exclude=["cpp*", "*.cpp", "cmake*", "results*"])
            if "__pycache__" not in sub
        ),
    ]

setup(
    packages=packages,
    package_dir=ROOTS,
    package_data={
        "treadle": ["py.typed"],
        "treadle.bench": ["*.cc", "ptx/*.cu"],
        "treadle.runtime": ["cpp/*", "cpp/**/*", "cmake/*"],
        "treadle.codegen.ptxsim.standin": ["cpp/*"],
    },
)
