"""Numbers and pictures about concepts: overlap, attention, density. Nothing here changes a model.

:mod:`.places` says where the neurons lie, :mod:`.overlap` what two concepts share beside chance,
:mod:`.attention` where words look, :mod:`.plots` makes pictures of it.
"""
