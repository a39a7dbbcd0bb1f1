"""The words of the drawn scenes: what a caption can say."""

from __future__ import annotations

COLORS = ("red", "blue", "green", "yellow", "purple", "orange", "white", "black", "pink", "brown")
MATERIALS = ("striped", "dotted", "checkered", "wooden", "golden")
COUNTS = {1: "one", 2: "two", 3: "three", 4: "four"}
PLURALS = {
    "cat": "cats",
    "dog": "dogs",
    "bird": "birds",
    "fish": "fish",
    "horse": "horses",
    "sheep": "sheep",
    "cow": "cows",
    "elephant": "elephants",
    "bear": "bears",
    "giraffe": "giraffes",
    "car": "cars",
    "bus": "buses",
    "train": "trains",
    "truck": "trucks",
    "boat": "boats",
    "airplane": "airplanes",
    "house": "houses",
    "chair": "chairs",
    "couch": "couches",
    "bed": "beds",
    "bench": "benches",
    "clock": "clocks",
    "vase": "vases",
    "book": "books",
    "umbrella": "umbrellas",
    "ball": "balls",
    "flower": "flowers",
    "cup": "cups",
    "bowl": "bowls",
    "bottle": "bottles",
    "apple": "apples",
    "banana": "bananas",
    "pizza": "pizzas",
    "cake": "cakes",
    "donut": "donuts",
}
PREPOSITIONS = {
    "grass": "on",
    "sand": "on",
    "snow": "on",
    "water": "in",
    "road": "on",
    "sky": "in",
    "floor": "on",
    "field": "in",
}
GLUE = [
    "a",
    "an",
    "the",
    "and",
    "of",
    "with",
    "on",
    "in",
    "at",
    "under",
    "over",
    "near",
    "by",
    "next",
    "to",
    "in",
    "front",
    "of",
    "behind",
    "beside",
    "between",
    "left",
    "right",
    "above",
    "below",
    "there",
    "is",
    "are",
    "photo",
    "picture",
    "drawing",
    "image",
    "painting",
    "small",
    "big",
    "large",
    "little",
]


def all_words() -> list[str]:
    """Every word of every caption, each once."""
    words = [*COLORS, *MATERIALS, *COUNTS.values(), *PLURALS, *PLURALS.values(), *PREPOSITIONS, *GLUE]
    return list(dict.fromkeys(words))
