"""Gates: is the data sound, is the model sound, is the candidate better than what serves now?"""
