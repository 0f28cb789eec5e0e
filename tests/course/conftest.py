"""The tests of the course kit find `lessons` however pytest is started."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
