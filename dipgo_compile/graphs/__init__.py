"""The denoiser as an ONNX graph: reading it, finding blocks in it, cutting engines out of it."""
