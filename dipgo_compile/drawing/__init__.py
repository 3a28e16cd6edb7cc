"""What lies around the denoising loop: from prompts and seeds to its inputs, from latents to pixels."""
