"""Installation of packages into a folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def pip_install(target: Path, package: Path, *flags: str) -> None:
    """Install a wheel or a project into a folder, without its dependencies."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *flags]
    subprocess.run([*pip, "--target", str(target), str(package)], check=True)
