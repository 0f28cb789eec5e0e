"""The course kit: the student edition of the notebooks, the grading of what comes back, slides."""
