"""Joint post-training of Hugging Face causal language models."""
