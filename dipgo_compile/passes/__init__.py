"""Transformations of a program; ``dipgo_compile.pipeline`` puts them in order."""
