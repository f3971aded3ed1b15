"""Text to tokens and back: tokenizers, chat templates, the text of a token stream."""
