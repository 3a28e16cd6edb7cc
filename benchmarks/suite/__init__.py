"""Many masks and peers on one architecture: every case a bundle, every row a process of its own.

Few processes live at a time: the rows of a turn, which take turns sample by sample, so that a machine that
slows down slows all of them down. What fails is written down as failed, and the rest goes on. The result file
is written after every step.
"""
