"""The path of the repository, which importing this module puts in sys.path.

A file run as a script (`python tools/train.py`) has only `tools/` in sys.path, and so imports this module as
`lib.repo_path` to make `models` and `tools` importable. `python -m tools.train` and pytest do not need it.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
