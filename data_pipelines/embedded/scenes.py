"""Generated scenes with captions that can be checked: shapes, colours, sizes, counts, places and relations.

The captions follow a small grammar of the project's own:

    caption  = ["there is" | "there are"] group ["and" group | place | "with" group relation] "."
    group    = number [size] colour shape
    number   = "a" | "an" | "two" | "three" | "four"
    relation = "above it" | "below it" | "to its left" | "to its right"
    place    = "in the middle" | "at the top left" | …

`is_true` parses a caption and compares it with the scene. Some shapes never occur together in
training: a captioner that is right about them recognises each thing, and doesn't recall whole scenes.
"""

import io
import random
import re
from dataclasses import dataclass
from functools import lru_cache

SIZE = 64  # pixels a side
COLOURS = {
    "red": (215, 40, 40), "green": (40, 150, 60), "blue": (40, 80, 220), "yellow": (240, 205, 30),
    "orange": (245, 130, 20), "purple": (145, 50, 185), "black": (25, 25, 25),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "star", "cross")
RADII = {"small": (6.0, 6.8), "large": (9.6, 10.6)}  # pixels
UNSEEN = ({"star", "cross"}, {"circle", "triangle"})  # never in one scene of the training split
NUMBERS = {1: "a", 2: "two", 3: "three", 4: "four"}
PLACES = {
    "at the top left": (0, 0), "at the top": (1, 0), "at the top right": (2, 0),
    "on the left": (0, 1), "in the middle": (1, 1), "on the right": (2, 1),
    "at the bottom left": (0, 2), "at the bottom": (1, 2), "at the bottom right": (2, 2),
}  # fmt: skip
RELATIONS = {"above it": (0, -1), "below it": (0, 1), "to its left": (-1, 0), "to its right": (1, 0)}  # of the second thing


@dataclass(frozen=True)
class Thing:
    """One shape; `x` to the right, `y` down, in pixels."""

    colour: str
    shape: str
    size: str
    x: float
    y: float
    radius: float

    @property
    def look(self) -> tuple[str, str, str]:
        return self.size, self.colour, self.shape


@dataclass(frozen=True)
class Scene:
    name: str
    things: tuple[Thing, ...]
    captions: tuple[str, ...]
    background: tuple[int, int, int] = (245, 245, 245)

    @property
    def is_unseen(self) -> bool:
        """Does it show a pair of shapes that no training scene has?"""
        return any(pair <= {thing.shape for thing in self.things} for pair in UNSEEN)

    def png(self) -> bytes:
        """The drawing as the bytes of a PNG file."""
        from PIL import Image, ImageDraw

        scale = 2  # drawn large and made small: smooth edges
        image = Image.new("RGB", (SIZE * scale, SIZE * scale), self.background)
        pen = ImageDraw.Draw(image)
        for thing in self.things:
            _draw(pen, thing, scale)
        file = io.BytesIO()
        image.resize((SIZE, SIZE), Image.Resampling.BOX).save(file, "PNG")
        return file.getvalue()


def _draw(pen, thing: Thing, scale: int) -> None:
    import math

    x, y, r = thing.x * scale, thing.y * scale, thing.radius * scale
    fill = COLOURS[thing.colour]
    if thing.shape == "circle":
        pen.ellipse([x - r, y - r, x + r, y + r], fill)
    elif thing.shape == "square":
        pen.rectangle([x - 0.85 * r, y - 0.85 * r, x + 0.85 * r, y + 0.85 * r], fill)
    elif thing.shape == "triangle":
        pen.polygon([(x, y - r), (x - r, y + 0.8 * r), (x + r, y + 0.8 * r)], fill)
    elif thing.shape == "cross":
        pen.rectangle([x - r, y - 0.3 * r, x + r, y + 0.3 * r], fill)
        pen.rectangle([x - 0.3 * r, y - r, x + 0.3 * r, y + r], fill)
    else:
        corners = [(1.1 * r if i % 2 == 0 else 0.45 * r, math.pi * (i / 5 - 0.5)) for i in range(10)]
        pen.polygon([(x + d * math.cos(a), y + d * math.sin(a)) for d, a in corners], fill)


@lru_cache(maxsize=1)
def embedded_scenes(train: int = 20_000, held_out: int = 400) -> dict[str, list[Scene]]:
    """`train`, without the pairs of `UNSEEN`, one caption a scene; `validation` and `test`, where every second scene shows one
    of these pairs, two captions a scene."""
    generator = random.Random(0)
    splits: dict[str, list[Scene]] = {}
    for split, count in (("train", train), ("validation", held_out), ("test", held_out)):
        scenes: list[Scene] = []
        while len(scenes) < count:
            unseen = split != "train" and len(scenes) % 2 == 1
            scene = _scene(generator, f"{split}-{len(scenes):04d}.png", unseen)
            if scene.is_unseen == unseen:
                scenes.append(scene)
        splits[split] = scenes
    return splits


def _scene(generator: random.Random, name: str, unseen: bool) -> Scene:
    kind = generator.choice(["relation", "groups"] if unseen else ["place", "relation", "relation", "count", "groups"])
    first = _look(generator)
    second = _look(generator)
    while second == first:
        second = _look(generator)
    background = (generator.randrange(215, 256), generator.randrange(215, 256), generator.randrange(215, 256))
    if kind == "place":
        place, (column, row) = generator.choice(list(PLACES.items()))
        things = [_thing(generator, first, 11 + 21 * column, 11 + 21 * row)]
        bodies = [f"{_group(1, first)} {place}", f"there is {_group(1, first)} {place}"]
    elif kind == "relation":
        relation, opposite = generator.choice(
            [("above it", "below it"), ("below it", "above it"), ("to its left", "to its right"), ("to its right", "to its left")]
        )
        along, across = generator.uniform(13, 18), generator.uniform(-5, 5)
        right, down = RELATIONS[relation]
        dx, dy = (along * right, across) if right else (across, along * down)
        x, y = generator.uniform(28, 36), generator.uniform(28, 36)
        things = [_thing(generator, first, x - dx, y - dy), _thing(generator, second, x + dx, y + dy)]
        a, b = _group(1, first), _group(1, second)
        bodies = [f"{a} with {b} {relation}", f"{b} with {a} {opposite}", f"there is {a} with {b} {relation}"]
    else:
        counts = [generator.randrange(2, 5)] if kind == "count" else generator.choice([[1, 2], [2, 1], [2, 2], [1, 1]])
        looks = [first, second][: len(counts)]
        corners = generator.sample([(x, y) for x in (11, 32, 53) for y in (11, 32, 53)], sum(counts))
        spread = [look for look, count in zip(looks, counts) for _ in range(count)]
        things = [_thing(generator, look, x, y) for look, (x, y) in zip(spread, corners)]
        groups = [_group(count, look) for count, look in zip(counts, looks)]
        verb = "is" if counts[0] == 1 else "are"
        bodies = [" and ".join(groups), f"there {verb} {' and '.join(groups)}"]
        if len(groups) == 2:
            bodies.append(f"{groups[1]} and {groups[0]}")
    captions = tuple(f"{body}." for body in generator.sample(bodies, 1 if name.startswith("train") else 2))
    return Scene(name, tuple(things), captions, background)


def _look(generator: random.Random) -> tuple[str, str, str]:
    return generator.choice(list(RADII)), generator.choice(list(COLOURS)), generator.choice(SHAPES)


def _thing(generator: random.Random, look: tuple[str, str, str], x: float, y: float) -> Thing:
    size, colour, shape = look
    return Thing(colour, shape, size, x + generator.uniform(-1, 1), y + generator.uniform(-1, 1), generator.uniform(*RADII[size]))


def _group(count: int, look: tuple[str, str, str]) -> str:
    size, colour, shape = look
    plural = "" if count == 1 else "es" if shape == "cross" else "s"
    return f"{NUMBERS[count]} {size} {colour} {shape}{plural}"


_GROUP = rf"({'|'.join(NUMBERS.values())}) ({'|'.join(RADII)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})(?:e?s)?"
_CAPTION = re.compile(
    rf"(?:there (?:is|are) )?{_GROUP}"
    rf"(?: (?P<place>{'|'.join(PLACES)})| with {_GROUP} (?P<relation>{'|'.join(RELATIONS)})| (?P<and>and) {_GROUP})?"
)


def is_true(caption: str, scene: Scene) -> bool:
    """Does the caption follow the grammar, is all it says so, and does it leave no thing of the scene out?

    >>> scene = Scene("", (Thing("red", "circle", "small", 10, 10, 5), Thing("blue", "star", "large", 12, 40, 10)), ())
    >>> is_true("a small red circle with a large blue star below it.", scene), is_true("a small red circle.", scene)
    (True, False)
    """
    match = _CAPTION.fullmatch(caption.strip().lower().rstrip(" ."))
    if match is None:
        return False
    words = [word for word in match.groups() if word and word not in (match["place"], match["relation"], match["and"])]
    numbers = {word: number for number, word in NUMBERS.items()}
    groups = [(numbers[words[i]], tuple(words[i + 1 : i + 4])) for i in range(0, len(words), 4)]
    of_group = [[thing for thing in scene.things if thing.look == look] for _, look in groups]
    if any(len(things) != number for (number, _), things in zip(groups, of_group)):
        return False
    if sum(number for number, _ in groups) != len(scene.things):
        return False
    first = of_group[0][0]
    if match["place"]:
        return len(scene.things) == 1 and (int(first.x * 3 // SIZE), int(first.y * 3 // SIZE)) == PLACES[match["place"]]
    if match["relation"]:
        return len(scene.things) == 2 and _relation(first, of_group[1][0]) == match["relation"]
    return True


def _relation(a: Thing, b: Thing) -> str:
    """Where b is, seen from a."""
    dx, dy = b.x - a.x, b.y - a.y
    if abs(dy) > abs(dx):
        return "below it" if dy > 0 else "above it"
    return "to its right" if dx > 0 else "to its left"
