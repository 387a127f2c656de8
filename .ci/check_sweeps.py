"""Holds the bundled sweeps against W&B's own schema, as its `sweeps` package has it.

Run by .ci/run in an environment of its own: that package needs an older numpy than we do.
"""

import sys
import warnings
from pathlib import Path

import yaml

warnings.simplefilter("ignore")  # pydantic's, about the package

from sweeps import schema_violations_from_proposed_config  # noqa: E402

files = sorted(Path("sweeps").glob("*.yaml"))
violations = [
    f"{file}: {violation}"
    for file in files
    for violation in schema_violations_from_proposed_config(yaml.safe_load(file.read_text()))
]
print(*violations, f"{len(files)} sweep files, {len(violations)} violations", sep="\n")
sys.exit(bool(violations or not files))
