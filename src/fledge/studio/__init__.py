"""The web studio: runs, playground, microscope, tokenizer, data, and where a text came from. Reads run folders only."""
