"""What the exercises of each notebook are checked with: one file per notebook."""
