"""Helpers without a subject of their own: checks of arguments, whole files, axes. Its files are imported by name."""
