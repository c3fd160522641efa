"""MMMU-Pro's rule for replies: the letter after the last "Answer:", else MMMU's steps, with a letter before a space or a full stop.

A refusal that says "I " names the option I, and "D. RB" names B. The owner guesses where nothing can be read, from a generator without a
seed: only letters that he has stored can be compared.
"""

from __future__ import annotations

from mede2_jax.reasoning.choices import Options
from mede2_jax.scoring.mmmu import furthest, read_option_text, surrounded
from mede2_jax.scoring.reading import Reading

_CUE = "Answer:"


def read(reply: object, options: Options) -> Reading:
    """The only letter after the last "Answer:", inside words too; if there are several or none, what MMMU's steps read in the whole reply.

    Args:
        reply: As it came. What is no text (an error that the owner's scripts store instead of one) is an empty reply.
        options: Capital letter to text, in the item's order.
    """
    reply = reply if isinstance(reply, str) else ""
    _, cue, said = reply.rpartition(_CUE)
    if cue and len(letters := [letter for letter in options if letter in said]) == 1:
        return Reading(letters[0], "after 'Answer:'")
    text = surrounded(reply)
    # What is found before a space or a full stop is placed as a word, so one that only ends a word is before all others.
    for step, form, place in (("(X)", "({})", "({})"), ("X before a space", "{} ", " {} "), ("X before a full stop", "{}.", " {} ")):
        if found := [letter for letter in options if form.format(letter) in text]:
            return Reading(furthest(found, text, place.format), step)
    return read_option_text(text, options)
