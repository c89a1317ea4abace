"""The words of captions and questions about rendered scenes.

Annotators import this module alone, so they do not depend on how captions are split.
"""

SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLOURS = ("red", "yellow", "green", "blue", "purple", "white")
RELATIONS = ("left of", "right of", "above", "below")
NUMBERS = {2: "two", 3: "three", 4: "four"}
PLURALS = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES}
