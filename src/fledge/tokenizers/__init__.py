"""Tokenizers: characters, BPE from scratch, tokenizer.json files; training and streaming."""
