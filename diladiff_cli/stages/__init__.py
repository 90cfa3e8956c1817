"""The commands without their options: each builds networks, data and an objective, or samples and measures.

- Training: ``train_mdlm`` (with ``initial_base``), ``train_ae``, ``train_prior``, ``distill``; shared: ``common``,
  ``feature_sources``, ``latent_data``, ``masked_logits``, ``from_artifacts`` (networks).
- ``encode`` (with ``encode_finished``), ``encode_latents``, ``export``, ``info``.
- Of several modules each: ``sampling``, ``evaluation``, ``bench``, ``plotting``.
"""
