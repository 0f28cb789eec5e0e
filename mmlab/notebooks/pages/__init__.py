"""The site: executed notebooks, the docs and a reference of the library, as pages by Sphinx.

``prepare`` makes the source of a page from an executed notebook, in the worker; ``records`` reads
how the notebooks ran; ``staging`` lays out what Sphinx reads; ``config`` and ``extension`` say how
it reads that; ``publish`` finishes its pages and puts them into the site.
"""
