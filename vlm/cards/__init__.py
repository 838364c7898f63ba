"""Model cards: their text, the licences of what is in a model, its scores."""
