"""The repository's root, and the one place that puts it in sys.path.

A file run as a script (`python tools/train.py`) has only `tools/` in sys.path; importing this module makes
`models` and `tools` importable, which `python -m tools.train` and pytest have from the start.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
