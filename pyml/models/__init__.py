"""A model <-> the bytes that are stored, and what a stored model may say.

In: a trained model, or the bytes of one. Out: checked bytes, or what scores.
"""
