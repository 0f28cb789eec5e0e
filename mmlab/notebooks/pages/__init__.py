"""The site: executed notebooks, the docs and a reference of the library, as pages by Sphinx.

``prepare`` makes the source of a page from an executed notebook, in the worker; ``records`` reads
how the notebooks ran; ``staging`` lays out what Sphinx reads, with ``reference`` for the library;
``config`` and ``extension`` say how it reads that, ``links`` where links lead; ``publish`` finishes
its pages and puts them into the site. ``build`` does one after the other.
"""
