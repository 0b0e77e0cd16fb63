"""New weights for smaller parts: cut, projected and refitted, piece by piece; a method puts the pieces together."""
