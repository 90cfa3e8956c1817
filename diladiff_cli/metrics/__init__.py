"""The figures, as functions of texts, tokens and logits.

- Of texts: ``genppl`` and ``mauve``, which have a language model of ``scorers``; ``diversity``; ``agreement`` of two
  decodings of a latent; ``frontier`` (comparisons at equal entropy).
- Of networks: ``recovery`` of masked tokens, ``likelihood``.
- ``quiet``: silences libraries.
"""
