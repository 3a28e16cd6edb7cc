"""Multiply-accumulates: of modules, of graphs, of images."""
