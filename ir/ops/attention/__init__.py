"""Attention over tokens, and the softmax it is made of."""
