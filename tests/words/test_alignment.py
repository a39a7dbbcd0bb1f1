"""Alignment of two prompts' tokens, against cases worked by hand; only some words are one token (see conftest)."""

from __future__ import annotations

import pytest
import torch

from locinv_pl.words.alignment import Alignment, align, common_words, edit_kind
from locinv_pl.words.tokens import tokenize


def aligned(tiny, source: str, target: str) -> Alignment:
    return align(tokenize(tiny.tokenizer, source), tokenize(tiny.tokenizer, target))


def columns(alignment: Alignment) -> list[dict[int, float]]:
    """For each target token the source tokens that it takes over, with their shares."""
    return [{int(p): column[p].item() for p in torch.nonzero(column).flatten()} for column in alignment.mapper.T]


# Positions count from the start mark, 0. "owl" and "fox" are three tokens of a letter each.


def test_a_word_for_a_word(tiny):
    # source: 0<s> 1a 2cat 3and 4a 5dog 6</s>; target: the same with 2dog
    found = aligned(tiny, "a cat and a dog", "a dog and a dog")
    assert columns(found) == [{p: 1.0} for p in range(20)]
    assert found.taken.all()
    assert found.kept.tolist() == [0, 1, -1, *range(3, 20)]


def test_one_token_for_three(tiny):
    # source: 1a 2cat 3and 4a 5dog 6</s>; target: 1a 2o 3w 4l 5and 6a 7dog 8</s>
    found = aligned(tiny, "a cat and a dog", "a owl and a dog")
    third = pytest.approx(1 / 3)
    assert columns(found)[:9] == [{0: 1}, {1: 1}, {2: third}, {2: third}, {2: third}, {3: 1}, {4: 1}, {5: 1}, {6: 1}]
    assert found.kept[:9].tolist() == [0, 1, -1, -1, -1, 3, 4, 5, 6]
    assert found.mapper[2].sum() == pytest.approx(1), "the cat's attention is shared out, no more"


def test_three_tokens_for_one(tiny):
    found = aligned(tiny, "a owl and a dog", "a cat and a dog")
    assert columns(found)[:7] == [{0: 1}, {1: 1}, {2: 1, 3: 1, 4: 1}, {5: 1}, {6: 1}, {7: 1}, {8: 1}]


def test_three_tokens_for_three_others(tiny):
    found = aligned(tiny, "a owl", "a fox")
    third = pytest.approx(1 / 3)
    assert columns(found)[2:5] == [{2: third, 3: third, 4: third}] * 3
    assert found.kept[2:5].tolist() == [-1] * 3


def test_an_insertion_at_the_beginning(tiny):
    # target: 1red 2cat 3and 4dog 5</s>; source: 1cat 2and 3dog 4</s>
    found = aligned(tiny, "cat and dog", "red cat and dog")
    assert columns(found)[:6] == [{0: 1}, {}, {1: 1}, {2: 1}, {3: 1}, {4: 1}]
    assert not found.taken[1] and found.kept[1] == -1


def test_an_insertion_at_the_end(tiny):
    # target: 1a 2cat 3on 4grass 5</s>; source: 1a 2cat 3</s>
    found = aligned(tiny, "a cat", "a cat on grass")
    assert columns(found)[:6] == [{0: 1}, {1: 1}, {2: 1}, {}, {}, {3: 1}]


def test_deletions_at_both_ends(tiny):
    # source: 1red 2cat 3and 4dog 5on 6grass 7</s>; target: 1cat 2and 3dog 4</s>
    found = aligned(tiny, "red cat and dog on grass", "cat and dog")
    assert columns(found)[:5] == [{0: 1}, {2: 1}, {3: 1}, {4: 1}, {7: 1}]


def test_a_phrase_for_a_word_keeps_the_noun_on_the_noun(tiny):
    # source: 1a 2cat; target: 1a 2red 3dog
    found = aligned(tiny, "a cat", "a red dog")
    assert columns(found)[:4] == [{0: 1}, {1: 1}, {}, {2: 1}]


def test_a_phrase_for_a_word_ends_before_its_preposition(tiny):
    # source: 1a 2cat; target: 1a 2red 3dog 4on 5grass; "on grass" is new
    found = aligned(tiny, "a cat", "a red dog on grass")
    assert columns(found)[:6] == [{0: 1}, {1: 1}, {}, {2: 1}, {}, {}]


def test_of_equal_words_the_first_is_the_common_one(tiny):
    # source: 1a 2dog; target: 1a 2dog 3and 4a 5dog
    found = aligned(tiny, "a dog", "a dog and a dog")
    assert found.kept[:3].tolist() == [0, 1, 2] and found.kept[3:6].tolist() == [-1] * 3


def test_case_and_punctuation(tiny):
    found = aligned(tiny, "A cat, a dog!", "a Cat, a red dog!")
    # source: 1a 2cat 3, 4a 5dog 6! 7</s>; target: 1a 2cat 3, 4a 5red 6dog 7! 8</s>
    assert columns(found)[:9] == [{0: 1}, {1: 1}, {2: 1}, {3: 1}, {4: 1}, {}, {5: 1}, {6: 1}, {7: 1}]


@pytest.mark.parametrize("prompt", ["a cat", "a owl and a zebra, on grass", "", "dog"])
def test_a_prompt_with_itself_is_the_identity(tiny, prompt):
    found = aligned(tiny, prompt, prompt)
    assert torch.equal(found.mapper, torch.eye(20)) and found.taken.all()
    assert found.kept.tolist() == list(range(20)) and not found.changed


def test_every_token_that_takes_over_takes_from_somewhere(tiny):
    for source, target in [("a cat on grass", "red zebra"), ("dog", "a owl, a cat"), ("a red owl", "a cat and dog")]:
        found = aligned(tiny, source, target)
        assert torch.equal(found.mapper.sum(0) > 0, found.taken)
        assert (found.mapper.sum(1) <= 1 + 1e-6).all() or (found.mapper.sum(0) <= 3).all()


@pytest.mark.parametrize(
    ("source", "target", "pairs"),
    [
        ("a red cat and a dog", "a owl and a red dog", [(0, 0), (3, 2), (4, 3), (5, 5)]),
        ("a cat and a dog", "a dog", [(3, 0), (4, 1)]),
        ("a dog", "a cat and a dog", [(0, 3), (1, 4)]),
        ("a cat", "a cat and a cat", [(0, 0), (1, 1)]),
        ("cat", "dog", []),
        ("", "a dog", []),
    ],
)
def test_common_words(source, target, pairs):
    found = common_words(source.split(), target.split())
    assert len(found) == len(pairs)
    if source != "a cat":  # either of the two cats will do
        assert found == pairs


@pytest.mark.parametrize(
    ("source", "target", "kind"),
    [
        ("a cat and a dog", "a tiger and a dog", "word_swap"),
        ("a cat and a dog", "an elephant and a dog", "word_swap"),
        ("a red cat and a dog", "a blue cat and a dog", "attribute"),
        ("a red cat", "an orange cat", "attribute"),
        ("a cat and a dog", "a black cat and a dog", "attribute"),
        ("a black cat", "a cat", "attribute"),
        ("a cat", "a cat on the grass", "add"),
        ("a cat and a dog", "a cat", "remove"),
        ("a red cat on the grass", "a blue dog on the grass", "word_swap"),
        ("A cat", "a  Cat", "same"),
    ],
)
def test_kinds_of_edits(source, target, kind):
    assert edit_kind(source, target) == kind
