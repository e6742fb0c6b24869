"""What a recipe says: its keys, its files, its errors, and which recipe a model gets."""
