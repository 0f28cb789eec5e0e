"""For `making`, which the tests of this folder import."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
