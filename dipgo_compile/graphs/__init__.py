"""The denoiser as an ONNX graph: exporting and reading it, finding blocks in it, cutting it into them."""
