"""Text, tokens and latents on disk.

- Text in: ``files`` (what a source names), ``lines``, ``rows``, ``text`` (documents).
- ``tokenizer``; data sets: ``tokens`` (what ``encode`` writes), ``latents`` (``encode --ae``), both of ``shards``.
- ``order``: in which training visits them.
"""
