"""``python -m mmlab.bench``."""

from mmlab.bench.tables import main

if __name__ == "__main__":
    main()
