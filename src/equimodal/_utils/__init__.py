"""Helpers without a subject of their own: arguments, whole files, axes, precision. Its files are imported by name."""
