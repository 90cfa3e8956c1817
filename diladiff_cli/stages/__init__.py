"""The commands without their options: each builds networks, data and an objective, or samples and measures.

- Training: ``train_mdlm`` (with ``initial``), ``train_ae``, ``train_prior``, ``distill``; shared: ``common``,
  ``feature_sources``, ``latent_data``, ``masked_logits``, ``networks`` (from artifacts).
- ``encode`` (with ``encode_finished``), ``encode_latents``.
- ``sample``: ``sampler`` (the networks), ``sample_settings``, ``prompts``, ``graphs`` (CUDA), ``trace``.
- ``eval``: ``eval_files`` takes all targets; of samples ``eval_samples``, ``sample_sets``, ``sample_measure``,
  ``reference_text``, ``scoring``; of artifacts ``eval_artifact``, ``eval_figures``.
- ``bench``: ``bench_frontier``, ``bench_points``, ``bench_kept``, ``bench_lines``, ``bench_tables``, ``bench_picture``;
  with ``--speed`` ``bench_speed``, ``bench_training``.
- ``plot`` (with ``plot_sources``, ``plot_training``), ``pictures`` (one look for all, with ``point_labels``);
  ``export``, ``info``.
"""
