"""Lets the tests here import their common helper, `trained`, however pytest is started."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
