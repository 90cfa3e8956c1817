"""The networks: keyword arguments in, tensors out.

- ``layers``, ``attention``, ``products``, ``norms`` and ``rotary`` (the one transformer block), ``moments`` (running
  statistics); ``derivatives`` finds out whether any are asked for.
- ``denoiser`` (base and decoder), ``encoder``, ``autoencoder``, ``features`` (what the encoder reads), ``latent``
  (prior and student).
- ``public``: published checkpoints as weights of the denoiser.
"""
