"""What a notebook needs of its reader: a sound environment, exercises that answer, play.

torch and matplotlib load on first use, so that `environment` can also say that torch is missing.
"""

from mmlab.teaching.answers import exercise
from mmlab.teaching.live import Live
from mmlab.teaching.play import explore
from mmlab.teaching.surroundings import environment

__all__ = ["Live", "environment", "exercise", "explore"]
