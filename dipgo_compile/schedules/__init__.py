"""Schedulers as tables of coefficients: by which name, found how, and what the denoiser reads of them."""
