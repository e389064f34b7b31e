"""The import contracts of pyproject.toml, and the start-up time that lazy imports protect."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parents[1]


def test_imports_follow_the_layers_without_cycles() -> None:
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


def test_train_help_does_not_import_open_clip() -> None:
    code = (
        "import contextlib, sys\n"
        "from clipalign.commands.cli import main\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main(['train', '--method', 'smartclip', '--help'])\n"
        "print('open_clip' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--batch-size" in result.stdout
    assert result.stdout.splitlines()[-1] == "False"
