"""The datasets, one file each; :func:`equimodal.data.prepare.get` finds them by name and imports them when asked for.

``_audio_video`` and ``_image_text`` hold what the datasets of short clips and of image-text pairs share; ``_splits``
and ``_parameters``, what all do. What their pages say is in ``facts/NAME.yaml``, of the format of ``_facts_file.py``.
"""
