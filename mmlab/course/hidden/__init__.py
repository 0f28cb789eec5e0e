"""Cases that no notebook shows: by them `grade` checks two exercises per notebook.

One file per notebook. Each function there is named as the exercise in `mmlab.teaching.exercises`
(which has the reference), takes a generator of random numbers, and gives the cases: name ->
arguments, as `exercise` takes them. Whoever grades chooses the seed, so that no case can be known
before. The files must not import the references: they are read in the process that runs the
students' code.
"""
