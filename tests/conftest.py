"""No window opens in the tests, on any system (set here, not in the environment: kernels inherit
that, and theirs is to draw inline)."""

import matplotlib

matplotlib.use("Agg")
