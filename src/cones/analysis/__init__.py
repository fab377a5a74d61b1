"""Numbers and pictures about concepts. Nothing here changes a model.

:mod:`.overlap` says what two masks share beside chance, :mod:`.attention` where words look.
"""
