"""Words to characters to tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from locinv_pl.assets import EMBEDDED
from locinv_pl.errors import InputError
from locinv_pl.types import Adjective, EditSample, Noun
from locinv_pl.words import find_word
from locinv_pl.words.tokens import prompt_batch, tokenize, unmarked_ids


def noun(prompt: str, word: str, nth: int = 0) -> Noun:
    return Noun(word, find_word(prompt, word)[nth], torch.ones(8, 8), torch.ones(8, 8) > 0)


def edit_sample(prompt: str, *words: str, adjectives=()) -> EditSample:
    return EditSample("x", torch.zeros(3, 8, 8), prompt, tuple(noun(prompt, w) for w in words), adjectives)


def spelled(tokenizer, tokens, positions) -> str:
    return "".join(tokenizer.convert_ids_to_tokens([int(tokens.ids[p]) for p in positions])).replace("</w>", "")


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("a cat and a dog", "cat"),
        ("a zebra and a dog", "zebra"),  # splits into letters
        ("A Zebra, a DOG!", "dog"),
        ("a   cat ,  a zebra.", "zebra"),
        ("zebra", "zebra"),
        ("a fire-truck on grass", "truck"),
    ],
)
def test_the_tokens_of_a_word_spell_it(tiny, prompt, word):
    tokens = tokenize(tiny.tokenizer, prompt)
    (span,) = find_word(prompt, word)
    assert spelled(tiny.tokenizer, tokens, tokens.positions(span)) == word


def test_a_word_of_several_tokens_has_the_mean_of_their_maps(tiny):
    batch = prompt_batch(tiny.tokenizer, [edit_sample("a zebra and a cat", "zebra", "cat")], False)
    zebra, cat = batch.nouns[0]
    assert zebra[zebra > 0].tolist() == pytest.approx([1 / 5] * 5)
    assert cat[cat > 0].tolist() == [1.0]
    assert batch.dynamic[0].sum() == 6


def test_the_same_noun_twice_has_two_places(tiny):
    prompt = "a cat and a red cat"
    first, second = find_word(prompt, "cat")
    tokens = tokenize(tiny.tokenizer, prompt)
    a, b = tokens.positions(first), tokens.positions(second)
    assert a != b and tokens.ids[a[0]] == tokens.ids[b[0]]
    assert prompt[slice(*first)] == prompt[slice(*second)] == "cat" and second[0] == prompt.rindex("cat")


def test_whole_words_only():
    assert find_word("a catalog, a cat", "cat") == [(13, 16)]
    with pytest.raises(InputError, match="'cat' is not in the prompt 'a catalog'"):
        find_word("a catalog", "cat")
    with pytest.raises(InputError):
        find_word("a cat", " ")


def test_limit_of_the_text_encoder(tiny):
    fits = " ".join(["cat"] * 18)
    assert len(tokenize(tiny.tokenizer, fits).ids) == 20
    with pytest.raises(InputError, match="image 'p7' has 21 tokens, the text encoder takes 20"):
        tokenize(tiny.tokenizer, fits + " cat", "p7")


def test_batch_pads_images_with_fewer_nouns(tiny):
    first = edit_sample("a red cat and a dog", "cat", "dog", adjectives=(Adjective("red", (2, 5), 0),))
    batch = prompt_batch(tiny.tokenizer, [first, edit_sample("a dog on grass", "dog"), edit_sample("grass")], True)
    assert batch.has_noun.tolist() == [[True, True], [True, False], [False, False]]
    assert batch.has_pair.tolist() == [[True], [False], [False]]
    tokens = tokenize(tiny.tokenizer, first.prompt)
    assert torch.nonzero(batch.adjectives[0, 0]).flatten().tolist() == list(tokens.positions((2, 5)))
    assert torch.equal(batch.described[0, 0], batch.nouns[0, 0])
    assert batch.dynamic.sum(-1).tolist() == [3, 1, 0]
    assert not batch.nouns[2].any()


def test_adjectives_move_only_when_they_are_bound(tiny):
    bound = edit_sample("a red cat", "cat", adjectives=(Adjective("red", (2, 5), 0),))
    assert prompt_batch(tiny.tokenizer, [bound], False).dynamic.sum() == 1
    assert prompt_batch(tiny.tokenizer, [bound], True).dynamic.sum() == 2


@pytest.fixture(scope="module")
def roomy():
    """The embedded model's tokenizer, which knows every byte, with room for any prompt."""
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED / "tokenizer")
    tokenizer.model_max_length = 2000
    return tokenizer


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    left=st.text(max_size=40),
    right=st.text(max_size=40),
    word=st.sampled_from(["cat", "Dog", "HOUSE", "zebra", "café"]),
)
def test_a_span_has_exactly_the_tokens_of_its_word_in_any_text(roomy, left, right, word):
    prompt = f"{left} {word} {right}"
    tokens = tokenize(roomy, prompt)
    alone = roomy(word).input_ids[1:-1]
    for span in find_word(prompt, word):
        assert prompt[slice(*span)].lower() == word.lower()
    start = len(left) + 1
    positions = tokens.positions((start, start + len(word)))
    assert tokens.ids[list(positions)].tolist() == alone


def test_tokens_without_the_end_of_word_mark():
    """As in CLIP's vocabulary: "cat" is there with and without its mark, "giraffe" with it alone."""
    pieces = [
        "c",
        "a",
        "t",
        "ca",
        "cat",
        "cat</w>",
        "t</w>",
        "giraffe</w>",
        "a</w>",
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    merges = [("c", "a"), ("ca", "t"), ("ca", "t</w>")]
    tokenizer = CLIPTokenizer(vocab={piece: n for n, piece in enumerate(pieces)}, merges=merges, model_max_length=8)
    marked = ["<|startoftext|>", "a</w>", "cat</w>", "giraffe</w>", "ca", "t</w>"]
    ids = torch.tensor(tokenizer.convert_tokens_to_ids(marked)).reshape(2, 3)
    found = unmarked_ids(tokenizer, ids)
    assert found.shape == (2, 3) and found.dtype == torch.int64
    expected = ["<|startoftext|>", "a", "cat", "<|endoftext|>", "ca", "t"]
    assert tokenizer.convert_ids_to_tokens(found.flatten().tolist()) == expected
    assert tokenize(tokenizer, "cat").ids[1] == pieces.index("cat</w>")  # the mark is there in a prompt


@pytest.mark.parametrize("model", ["tiny", "embedded"])
def test_a_token_that_has_no_mark_stays_as_it_is(request, model):
    tokenizer = request.getfixturevalue(model).tokenizer
    ids = tokenize(tokenizer, "a zebra and a cat").ids
    found, marked = unmarked_ids(tokenizer, ids), tokenizer.convert_ids_to_tokens(ids.tolist())
    for before, after, piece in zip(ids.tolist(), found.tolist(), marked, strict=True):
        wanted = piece.removesuffix("</w>")
        assert after == (tokenizer.get_vocab().get(wanted, tokenizer.eos_token_id) if piece != wanted else before)
    assert not torch.equal(found, ids)
