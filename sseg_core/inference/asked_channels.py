"""Which channels of a network with fixed classes answer what is asked for."""

from __future__ import annotations

from sseg_core.inference.known_classes import KnownClasses
from sseg_core.inference.vocabulary import Vocabulary


def asked_channels(
    known: KnownClasses, vocabulary: Vocabulary, *, has_background: bool
) -> tuple[list[int], Vocabulary]:
    """Return the channels among which a pixel's probabilities are, and what each stands for.

    Background is among them where the network was taught it and the vocabulary leaves room for it.
    Where a single class is asked for, and the network was taught no background, all else that it
    knows is background: alone the class would take every pixel.

    Args:
        known: the classes of the network's first channels.
        vocabulary: what is asked for.
        has_background: the network tells background apart, in a channel behind the classes.

    Returns:
        The channels, and a vocabulary with one word for each.

    Raises:
        ConfigError: a class is none of the network's.
    """
    channels = list(known.find(vocabulary))
    names = vocabulary.class_names
    if has_background and vocabulary.with_background:
        return [*channels, len(known.names)], Vocabulary.of(names, background=["background"])
    if len(channels) == 1 and vocabulary.with_background:
        others = [number for number in range(len(known.names)) if number not in channels]
        rest = [known.names[number] for number in others]
        return [*channels, *others], Vocabulary.of(names, background=rest)
    return channels, Vocabulary.of(names)
