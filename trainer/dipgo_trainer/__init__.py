"""The DiP-GO trainer: learns which blocks of a frozen denoiser to compute at which denoising call.

The paper is Zhu et al., "DiP-GO: A Diffusion Pruner via Few-step Gradient Optimization", NeurIPS 2024. The
SuperNet and the reference chain of this package define what a correct result of a mask is; everything that is
compiled is compared with them.
"""
