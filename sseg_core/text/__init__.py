"""Words: the tokenizer, the text encoder and prompts."""
