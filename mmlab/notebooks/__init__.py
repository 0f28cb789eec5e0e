"""The strict notebook runner.

``python -m mmlab.notebooks run [NN…] --profile smoke -p name=value``

What papermill lets pass is refused here: parameters are checked before anything runs, a notebook
has one deadline as a whole, and success is told by the process that executed it, never by the file
it left. Each failure is reported as notebook, cell number, source line, cause, and costs no other
notebook. One cell shows so much and no more, nothing that a notebook starts outlives it, and a page
holds nothing that runs: what had to be cut, ended or left out is told in a note.

With ``--warm`` the kernels are forked from one process that has loaded everything, which spares the
seconds of imports (not on Windows; tried on Linux). Without it each process starts from nothing:
that is the reference, and a test holds the two against each other.

``run`` leaves ``NN-name.ipynb`` (only if all went well) and ``NN-name.json`` (what happened, with
which versions) in ``build/notebooks/`` and an HTML site in ``build/site/``.
"""

try:
    from mmlab.notebooks.catalogue import NotebookError
    from mmlab.notebooks.result import Result
    from mmlab.notebooks.runner import run
    from mmlab.notebooks.site import SiteError
except ModuleNotFoundError as error:
    if (error.name or "").startswith("mmlab"):
        raise  # a fault of ours, which no package mends
    raise ModuleNotFoundError(
        f"{error}: it runs notebooks or writes their pages, and comes with the extras of mmlab. "
        "Install them, as in `pip install -e '.[docs,notebooks]'` in the project's folder.",
        name=error.name,
    ) from error

__all__ = ["NotebookError", "Result", "SiteError", "run"]
