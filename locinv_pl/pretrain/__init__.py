"""The recipe that makes the embedded model: tokenizer, VAE, CLIP, recogniser and latent UNet, from drawn scenes."""
