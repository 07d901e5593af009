"""Sentences about toy scenes: varied, and true to what is visible.

Class words are never replaced by synonyms and there is one thing of a kind in a scene, so a
caption holds exactly the words of the classes it mentions. The sentences avoid other nouns,
because training keeps nouns and verbs (paper App. A.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_VERBS = {
    "house": ("stands", "sits", "rests"),
    "tree": ("grows", "stands", "sways"),
    "sun": ("shines", "glows", "smiles"),
    "star": ("twinkles", "glows", "smiles"),
    "minion": ("waits", "stands", "smiles"),
    "boat": ("floats", "sails", "drifts"),
    "flower": ("blooms", "grows", "stands"),
    "fish": ("swims", "jumps", "floats"),
}
_ADJECTIVES = {
    "house": ("red", "cosy", "old", "small"),
    "tree": ("green", "tall", "dark green", "lovely"),
    "sun": ("bright", "golden", "happy"),
    "star": ("pink", "bright", "happy"),
    "minion": ("yellow", "happy", "funny", "small"),
    "boat": ("small", "lovely", "turquoise"),
    "flower": ("purple", "pretty", "tall"),
    "fish": ("orange", "striped", "happy"),
}
_PREPOSITIONS = {
    "grass": ("on the grass", "in the green grass", "on soft grass"),
    "sand": ("on the sand", "on warm sand", "in the yellow sand"),
    "water": ("on the water", "in the blue water", "in the water"),
    "sky": ("in the sky", "in the blue sky", "high in the sky"),
    "snow": ("in the snow", "on the white snow", "in deep snow"),
    "road": ("on the road", "on the grey road", "along the road"),
}
_SURROUNDINGS = {
    "grass": ("beside the grass", "near green grass", "with grass around"),
    "sand": ("beside the sand", "near the sand", "with sand around"),
    "water": ("beside the water", "near the water", "with water around"),
    "sky": ("under the sky", "under a bright sky", "with the sky above"),
    "snow": ("beside the snow", "near the snow", "with snow around"),
    "road": ("beside the road", "near the road", "with a road nearby"),
}
_PLAIN = {
    "grass": ("grass", "green grass", "soft grass"),
    "sand": ("sand", "warm sand", "yellow sand"),
    "water": ("water", "blue water", "calm water"),
    "sky": ("sky", "bright sky", "blue sky"),
    "snow": ("snow", "white snow", "fresh snow"),
    "road": ("a road", "a grey road", "a long road"),
}


def write_captions(
    rng: np.random.Generator,
    objects: Sequence[tuple[str, str]],
    backgrounds: Sequence[str],
) -> tuple[str, ...]:
    """Write two or three different sentences about a scene.

    Args:
        rng: chooses templates, verbs and adjectives.
        objects: the visible objects, each with the ground it is on (which need not be visible).
        backgrounds: the visible grounds.

    Returns:
        Captions that each name every one of `objects` and `backgrounds`, and no other class.
    """
    templates = [_clauses, _inventory, _grounds_first] if objects else [_grounds_only] * 3
    order = rng.permutation(len(templates))[: int(rng.integers(2, 4))]
    captions = []
    for index in order:
        shuffled = [objects[i] for i in rng.permutation(len(objects))]
        grounds = [backgrounds[i] for i in rng.permutation(len(backgrounds))]
        sentence = templates[index](rng, shuffled, grounds)
        captions.append(f"{sentence[0].upper()}{sentence[1:]}.")
    return tuple(dict.fromkeys(captions))


def _clauses(
    rng: np.random.Generator, objects: Sequence[tuple[str, str]], backgrounds: Sequence[str]
) -> str:
    """'A happy minion waits on the grass and a boat sails on the water, under the sky'."""
    clauses = []
    said: set[str] = set()
    for name, ground in objects:
        clause = f"{_phrase(rng, name)} {_pick(rng, _VERBS[name])}"
        if ground in backgrounds and ground not in said:
            clause += f" {_pick(rng, _PREPOSITIONS[ground])}"
            said.add(ground)
        clauses.append(clause)
    rest = [_pick(rng, _SURROUNDINGS[ground]) for ground in backgrounds if ground not in said]
    if len(clauses) == 2 and rng.random() < 0.4:
        sentence = " while ".join(clauses)
    else:
        sentence = _listed(clauses)
    return f"{sentence}, {' and '.join(rest)}" if rest else sentence


def _inventory(
    rng: np.random.Generator, objects: Sequence[tuple[str, str]], backgrounds: Sequence[str]
) -> str:
    """'There is a red house and a flower, with grass and blue sky around'."""
    things = _listed([_phrase(rng, name) for name, _ in objects])
    grounds = _listed([_pick(rng, _PLAIN[ground]) for ground in backgrounds])
    opening = _pick(rng, ("there is", "here is", "we see", "you can see"))
    joint = _pick(rng, (", with {} around", " between {}", ", and also {}"))
    if " between" in joint and len(backgrounds) < 2:
        joint = ", and {} all around"
    return f"{opening} {things}" + joint.format(grounds)


def _grounds_first(
    rng: np.random.Generator, objects: Sequence[tuple[str, str]], backgrounds: Sequence[str]
) -> str:
    """'Sand and calm water, with a boat and a fish'."""
    grounds = _listed([_pick(rng, _PLAIN[ground]) for ground in backgrounds])
    things = _listed([_phrase(rng, name) for name, _ in objects])
    return f"{grounds}{_pick(rng, (', with ', ' around ', ': '))}{things}"


def _grounds_only(
    rng: np.random.Generator, _objects: Sequence[tuple[str, str]], backgrounds: Sequence[str]
) -> str:
    grounds = _listed([_pick(rng, _PLAIN[ground]) for ground in backgrounds])
    return f"{_pick(rng, ('here is', 'there is only', 'we see'))} {grounds}"


def _phrase(rng: np.random.Generator, name: str) -> str:
    """'a small boat', 'an old house', 'the sun'."""
    words = f"{_pick(rng, _ADJECTIVES[name])} {name}" if rng.random() < 0.6 else name
    if name == "sun":
        return f"the {words}"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts) if len(parts) < 2 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]
