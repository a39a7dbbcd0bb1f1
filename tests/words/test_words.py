"""Words of prompts: nouns, adjectives, categories, edits."""

import re
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from locinv_pl.errors import InputError
from locinv_pl.words import (
    SYNONYMS,
    DictionaryWords,
    Named,
    SpacyWords,
    Vocabulary,
    Word,
    find_word,
    inflect,
    insert_adjective,
    load_synonyms,
    load_words,
    replace_word,
)

TABLE = load_synonyms()
COCO = [name for name in TABLE if name != "not_meant"]
WORDS = DictionaryWords()

properties = settings(deadline=None, max_examples=150, derandomize=True)
LEXICON = (
    "a an the two that is are on of with to and in cat cats dog bus orange red glass people sheep riding parked covered"
    " very 's don't black-and-white İstanbul ﬁsh é e\u0301clair zero\u200bwidth straße ß naïve 2 3D _ - , . ’ ( 🐕"
)
captions = st.lists(st.sampled_from(LEXICON.split()), max_size=14).map(" ".join)
texts = captions | st.text(max_size=40)


def analysis(prompt: str) -> str:
    """The nouns of a prompt, each with its adjectives in front: "red old chair, table"."""
    pairs = WORDS.pairs(prompt)
    described = [[*(a.text for a, of in pairs if of == noun), noun.text] for noun in WORDS.nouns(prompt)]
    return ", ".join(" ".join(words) for words in described)


def named(vocabulary: Vocabulary, prompt: str) -> list[str]:
    """What a prompt names, "+" for plural: ["dogs=dog+"]."""
    return [f"{n.word.text}={n.name}{'+' * n.plural}" for n in vocabulary.find(prompt)]


def replaced(prompt: str, old: str, new: str) -> str:
    return replace_word(prompt, find_word(prompt, old)[0], new)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        # adjectives and their noun
        ("a red wooden chair", "red wooden chair"),
        ("a man in a blue suit with a red tie", "man, blue suit, red tie"),
        ("an orange cat licking its paw", "orange cat, paw"),
        ("an orange and a banana", "orange, banana"),
        ("a large, brown bear", "large brown bear"),
        ("a black and white dog", "black white dog"),
        ("a very small, rather old and extremely rusty truck", "small old rusty truck"),
        ("a dotted scarf beside striped socks", "dotted scarf, striped socks"),
        ("a round glass table", "round glass table"),
        ("an old smiling man with a young sleeping dog", "old smiling man, young sleeping dog"),
        ("my neighbour's black-and-white cat", "neighbour, black-and-white cat"),
        ("a snow covered hill behind a tree-lined street", "covered hill, tree-lined street"),
        # after "is"
        ("the cat is black", "black cat"),
        ("a cat that is black", "black cat"),
        ("the cat on the mat is black and very old", "black old cat, mat"),
        ("a lamp beside a vase that is tall and narrow", "lamp, tall narrow vase"),
        ("the umbrella, which is red, hangs on a hook", "red umbrella, hook"),
        ("the cups are placed near a broken plate", "cups, broken plate"),
        ("in the vase are white flowers", "vase, white flowers"),
        # verbs
        ("two horses rearing under a cloudy sky", "horses, cloudy sky"),
        ("three horses running in the sea", "horses, sea"),
        ("a red bicycle leaning against an old wall", "red bicycle, old wall"),
        ("a white dog lying on a wooden deck", "white dog, wooden deck"),
        ("a silver motorcycle parked on a street", "silver motorcycle, street"),
        ("two people sitting on a bench", "people, bench"),
        ("a sailor paints a boat", "sailor, boat"),
        ("the sailor paints his small boat", "sailor, small boat"),
        ("the train travels through a dark tunnel", "train, dark tunnel"),
        ("four men in suits ride on a yellow bus", "men, suits, yellow bus"),
        ("three sheep graze near a fence", "sheep, fence"),
        ("a herd of deer cross the road", "deer, road"),
        ("a boy and a girl walk along the beach", "boy, girl, beach"),
        ("children flying colourful kites", "children, colourful kites"),
        ("a woman who rides horses", "woman, horses"),
        ("she wants to paint the old fence", "old fence"),
        ("an orange cut in half on a plate", "orange, plate"),
        # compounds
        ("a dining table", "dining table"),
        ("a wine glass next to a fire hydrant", "wine glass, fire hydrant"),
        ("two street signs on a pole", "street signs, pole"),
        ("a sports car in a parking lot", "sports car, parking lot"),
        ("hot dogs and french fries", "hot dogs, french fries"),
        ("a small swimming pool behind a brick building", "small swimming pool, brick building"),
        ("an oil painting of a fox", "oil painting, fox"),
        # what is no thing
        ("a bottle of cognac", "bottle, cognac"),
        ("a large group of people near a bunch of yellow bananas", "people, yellow bananas"),
        ("a couple of dogs in front of a house on top of a hill", "dogs, house, hill"),
        ("a photo of two kittens in the middle of a road", "kittens, road"),
        ("a boat painted blue", "boat"),
        # lists, possessives, unknown words, no articles
        ("a pizza, a glass of wine and a bottle on a table", "pizza, glass, wine, bottle, table"),
        ("the dog's ball", "dog, ball"),
        ("the old dog\u2019s red ball", "old dog, red ball"),
        ("a man watching tv with a white frisbee", "man, tv, white frisbee"),
        ("a fluffy grumbleflock on a rock", "fluffy grumbleflock, rock"),
        ("fresh bread", "fresh bread"),
        ("Cars, buses and trucks wait at a traffic light.", "Cars, buses, trucks, traffic light"),
        ("There's a cup of hot coffee on the desk!", "cup, hot coffee, desk"),
        ("standing, sitting and very", ""),
        ("", ""),
    ],
)
def test_nouns_and_their_adjectives(prompt, expected):
    assert analysis(prompt) == expected


@given(texts)
@properties
def test_words_are_where_they_say(prompt):
    nouns = WORDS.nouns(prompt)
    adjectives = [adjective for adjective, _ in WORDS.pairs(prompt)]
    in_order(prompt, nouns)
    in_order(prompt, adjectives)
    in_order(prompt, sorted([*nouns, *adjectives], key=lambda word: word.span))
    assert {noun for _, noun in WORDS.pairs(prompt)} <= set(nouns)


def in_order(prompt: str, words: list[Word]) -> None:
    end = 0
    for word in words:
        start, stop = word.span
        assert end <= start < stop and prompt[start:stop] == word.text
        end = stop


# --- spaCy --------------------------------------------------------------------------------------

PARSES = {  # word/part of speech/dependency/head
    "a black and white cat": "a/DET/det/4 black/ADJ/amod/4 and/CCONJ/cc/1 white/ADJ/conj/1 cat/NOUN/ROOT/4",
    "the cat is black": "the/DET/det/1 cat/NOUN/nsubj/2 is/AUX/ROOT/2 black/ADJ/acomp/2",
    "a dog that is wet": "a/DET/det/1 dog/NOUN/ROOT/1 that/PRON/nsubj/3 is/AUX/relcl/1 wet/ADJ/acomp/3",
    "it is a new wine glass": (
        "it/PRON/nsubj/1 is/AUX/ROOT/1 a/DET/det/5 new/ADJ/amod/5 wine/NOUN/compound/5 glass/NOUN/attr/1"
    ),
    "a group of people in front": (
        "a/DET/det/1 group/NOUN/ROOT/1 of/ADP/prep/1 people/NOUN/pobj/2 in/ADP/prep/3 front/NOUN/pobj/4"
    ),
    "she looks happy": "she/PRON/nsubj/1 looks/VERB/ROOT/1 happy/ADJ/acomp/1",
}


@pytest.fixture
def pipeline(tmp_path):
    """A folder with a spaCy pipeline that knows the sentences of PARSES."""
    spacy = pytest.importorskip("spacy")

    @spacy.Language.component("locinv_test_parser")
    def parse(doc):
        rows = [row.split("/") for row in PARSES.get(doc.text, "").split()]
        for token, (_, pos, dep, head) in zip(doc, rows, strict=False):
            token.pos_, token.dep_, token.head = pos, dep, doc[int(head)]
        return doc

    nlp = spacy.blank("en")
    nlp.add_pipe("locinv_test_parser")
    nlp.to_disk(tmp_path / "pipeline")
    return tmp_path / "pipeline"


@pytest.mark.parametrize(
    ("prompt", "nouns", "pairs"),
    [
        ("a black and white cat", ["cat"], [("black", "cat"), ("white", "cat")]),
        ("the cat is black", ["cat"], [("black", "cat")]),
        ("a dog that is wet", ["dog"], [("wet", "dog")]),
        ("it is a new wine glass", ["wine glass"], [("new", "wine glass")]),
        ("a group of people in front", ["people"], []),
        ("she looks happy", [], []),
        ("", [], []),
    ],
)
def test_spacy_words(pipeline, prompt, nouns, pairs):
    words = load_words(f"spacy:{pipeline}")
    assert [word.text for word in words.nouns(prompt)] == nouns
    assert [(adjective.text, noun.text) for adjective, noun in words.pairs(prompt)] == pairs
    in_order(prompt, words.nouns(prompt))


def test_spacy_takes_the_best_installed_pipeline(pipeline, monkeypatch):
    import spacy

    load = spacy.load
    monkeypatch.setattr(spacy.util, "is_package", lambda name: name in ("en_core_web_sm", "en_core_web_md"))
    monkeypatch.setattr(spacy, "load", lambda name: load(pipeline))
    assert SpacyWords().name == "en_core_web_md"


def test_spacy_pipeline_without_parser(pipeline):
    with pytest.raises(InputError, match="no tagger or no parser"):
        load_words(f"spacy:{pipeline}").nouns("a sentence that it has no parse of")


def test_no_spacy_pipeline_is_installed(monkeypatch):
    spacy = pytest.importorskip("spacy")
    monkeypatch.setattr(spacy.util, "is_package", lambda name: False)
    with pytest.raises(InputError, match="python -m spacy download en_core_web_sm"):
        load_words("spacy")


def test_no_such_spacy_pipeline(tmp_path):
    pytest.importorskip("spacy")
    for name in ("en_core_no_such", str(tmp_path)):
        with pytest.raises(InputError, match=f"spacy:{re.escape(name)}: no such pipeline"):
            load_words(f"spacy:{name}")


def test_spacy_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(InputError, match="spaCy is not installed; pip install spacy, or use dictionary"):
        load_words("spacy")


def test_the_dictionary_is_the_default():
    assert isinstance(load_words(), DictionaryWords)
    for name in ("", "nltk", "spacyx", "dictionary:x"):
        with pytest.raises(InputError, match="no such word finder"):
            load_words(name)


# --- places of words ----------------------------------------------------------------------------


def test_find_word():
    assert find_word("a catalog, a Cat", " cat ") == [(13, 16)]
    assert find_word("a cafe\u0301", "cafe\u0301") == [(2, 7)]
    with pytest.raises(InputError, match="'cat' is not in the prompt 'a catalog'"):
        find_word("a catalog", "cat")
    for prompt, word in (("a cat", " "), ("a cat", ""), ("a cafe\u0301", "cafe")):
        with pytest.raises(InputError, match="^word "):
            find_word(prompt, word)


@given(texts, st.data())
@properties
def test_found_words_are_the_word(prompt, data):
    word = data.draw(st.sampled_from(prompt.split() or ["cat"]) | st.text(max_size=5))
    try:
        spans = find_word(prompt, word)
    except InputError:
        return
    assert spans
    for start, stop in spans:
        assert re.fullmatch(re.escape(word.strip()), prompt[start:stop], re.IGNORECASE)


# --- categories ---------------------------------------------------------------------------------


def test_coco_file():
    assert len(COCO) == 80 and len(TABLE) == 81
    words = [word for name in COCO for word in (name, *TABLE[name])]
    assert len(words) == len({word.lower() for word in words})
    assert not set(words) & set(TABLE["not_meant"])
    vocabulary = Vocabulary(COCO, TABLE)
    for name in COCO:
        for word in (name, inflect(name, True), *TABLE[name]):
            if word != "orange":  # alone it is a colour
                assert [n.name for n in vocabulary.find(f"near the {word}")] == [name], word
    assert not any(vocabulary.find(f"near the {word}") for word in TABLE["not_meant"])


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Two dogs and a CAT", ["dogs=dog+", "CAT=cat"]),
        ("mice beside a computer mouse", ["mice=mouse+", "computer mouse=mouse"]),
        (
            "a woman, three men, children and people",
            ["woman=person", "men=person+", "children=person+", "people=person+"],
        ),
        ("wine glasses on dining tables", ["wine glasses=wine glass+", "dining tables=dining table+"]),
        ("a fire  hydrant near a fire-truck", ["fire  hydrant=fire hydrant", "fire-truck=truck"]),
        ("knives, TVs, frisbees", ["knives=knife+", "TVs=tv+", "frisbees=frisbee+"]),
        ("a hot dog", ["hot dog=hot dog"]),
        ("a dog house and a dog's bone", ["dog=dog"]),
        ("a pug dog standing", ["pug dog=dog"]),
        ("two poodle puppies", ["poodle puppies=dog+"]),
        ("a dog, a puppy", ["dog=dog", "puppy=dog"]),
        ("an orange cat eats an orange", ["cat=cat", "orange=orange"]),
        ("a remote island with a remote", ["remote=remote"]),
        ("a white sheep, the sheep", ["sheep=sheep", "sheep=sheep"]),
        ("two white sheep, a herd of sheep, sheep", ["sheep=sheep+", "sheep=sheep+", "sheep=sheep+"]),
        ("a catalog of doghouses", []),
        ("fire, hydrant", ["hydrant=fire hydrant"]),
        ("", []),
    ],
)
def test_categories_of_captions(prompt, expected):
    assert named(Vocabulary(COCO, TABLE), prompt) == expected


def test_a_category_is_named_as_the_file_spells_it():
    names = ["Traffic_Light", " bear ", "Dogs", "POTTED-plant", "Straßenbahn", "", "dog house", "dogs"]
    vocabulary = Vocabulary(names, TABLE)
    assert named(vocabulary, "traffic lights, a Bear") == ["traffic lights=Traffic_Light+", "Bear= bear "]
    assert named(vocabulary, "a dog, puppies") == ["dog=Dogs", "puppies=Dogs+"]
    assert named(vocabulary, "Potted plants, a STRASSENBAHN, a straßenbahn") == [
        "Potted plants=POTTED-plant+",
        "straßenbahn=Straßenbahn",
    ]
    assert named(vocabulary, "a dog house") == ["dog house=dog house"]


def test_names_that_the_file_lacks_hide_what_they_contain():
    vocabulary = Vocabulary(["bear", "dog", "glass"], TABLE)
    assert named(vocabulary, "a teddy bear, a hot dog, a wine glass") == []
    assert named(vocabulary, "a polar bear, a hot, dog, a glass") == ["polar bear=bear", "dog=dog", "glass=glass"]
    assert named(Vocabulary(["bear", "dog"]), "a teddy bear, a hot dog") == ["bear=bear", "dog=dog"]


def test_a_synonym_that_is_a_category_itself_means_that():
    vocabulary = Vocabulary(["person", "woman"], TABLE)
    assert named(vocabulary, "a man, a woman") == ["man=person", "woman=woman"]
    assert named(Vocabulary(["woman"], TABLE), "a man, a woman") == ["woman=woman"]


@pytest.mark.parametrize("table", [TABLE, None])
def test_misspelled_categories(table):
    names = ["Banan", "Bycicle", "Girafe", "Elefant", "Pinapple", "Catt", "Hrose", "tv"]
    vocabulary = Vocabulary(names, table)
    assert named(vocabulary, "bananas, a bicycle, two giraffes") == [
        "bananas=Banan+",
        "bicycle=Bycicle",
        "giraffes=Girafe+",
    ]
    assert named(vocabulary, "an elephant eats pineapples") == ["elephant=Elefant", "pineapples=Pinapple+"]
    assert named(vocabulary, "a horse, a house and a nose") == ["horse=Hrose"]
    assert named(vocabulary, "a cat, a banan and a bandana") == ["banan=Banan"]  # too short; as it is; too far


def test_misspelled_names_of_several_words_and_synonyms_of_misspelled_ones():
    vocabulary = Vocabulary(["Trafic_light", "Bycicle", "diningtable", "Dinning table"], TABLE)
    assert named(vocabulary, "a traffic light and a bike") == ["traffic light=Trafic_light", "bike=Bycicle"]
    assert named(vocabulary, "two dining tables") == ["dining tables=diningtable+"]
    assert named(Vocabulary(["Dinning table"], TABLE), "a table") == ["table=Dinning table"]


def test_names_in_the_other_number():
    vocabulary = Vocabulary(["Scissor", "ski", "People", "glass", "Glasses"], TABLE)
    assert named(vocabulary, "scissors, skis") == ["scissors=Scissor+", "skis=ski+"]
    assert named(vocabulary, "a man and people") == ["man=People", "people=People+"]
    assert named(vocabulary, "a glass, glasses") == ["glass=glass", "glasses=Glasses+"]


def test_a_word_with_a_category_of_its_own_is_no_misspelling():
    assert named(Vocabulary(["Mosue", "moose"], TABLE), "a moose, a mouse") == ["moose=moose", "mouse=Mosue"]


@given(texts)
@properties
def test_named_words_are_where_they_say(prompt):
    for vocabulary in (Vocabulary(COCO, TABLE), Vocabulary(["İstanbul", "ﬁsh", "Catt", "Straße", "éclair", "é"])):
        in_order(prompt, [n.word for n in vocabulary.find(prompt)])


@given(st.lists(st.text(max_size=12), max_size=6), texts)
@properties
def test_any_names_will_do(names, prompt):
    found = Vocabulary(names, TABLE).find(prompt)
    assert {n.name for n in found} <= set(names)
    assert all(isinstance(n, Named) for n in found)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("dog: [puppy", "not valid YAML"),
        ("- dog", "holds no categories"),
        ("", "holds no categories"),
        ("dog: puppy", "'dog' has no list of words"),
        ("dog:", "'dog' has no list of words"),
        ("dog: [puppy, 3]", "'dog' has no list of words"),
        ("dog: [' ']", "'dog' has no list of words"),
        ("1: [puppy]", "1 has no list of words"),
    ],
)
def test_bad_synonyms(tmp_path, text, problem):
    path = tmp_path / "words.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"words.yaml: {problem}") as error:
        load_synonyms(path)
    assert "\n" not in str(error.value)


def test_synonyms_of_a_file(tmp_path):
    path = tmp_path / "words.yaml"
    path.write_text(yaml.safe_dump({"dog": ["puppy"], "cat": []}))
    assert load_synonyms(path) == {"dog": ("puppy",), "cat": ()}
    for missing, problem in ((tmp_path / "none.yaml", "no such file"), (tmp_path, "cannot be read")):
        with pytest.raises(InputError, match=problem):
            load_synonyms(missing)
    path.write_bytes(b"\xff\x00dog")
    with pytest.raises(InputError, match="not valid YAML"):
        load_synonyms(path)
    assert load_synonyms(SYNONYMS) == TABLE


# --- edits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("singular", "plural"),
    [
        ("dog", "dogs"),
        ("dining table", "dining tables"),
        ("mouse", "mice"),
        ("person", "people"),
        ("sheep", "sheep"),
        ("bus", "buses"),
        ("wine glass", "wine glasses"),
        ("tv", "tvs"),
        ("TV", "TVs"),
        ("Dog", "Dogs"),
        ("Knife", "Knives"),
        ("DOG", "DOGS"),
        ("Mouse", "Mice"),
        ("frisbee", "frisbees"),
        ("grumbleflock", "grumbleflocks"),
        ("", ""),
        (" - ", " - "),
    ],
)
def test_inflect(singular, plural):
    assert inflect(singular, True) == inflect(plural, True) == plural
    assert inflect(plural, False) == inflect(singular, False) == singular


@pytest.mark.parametrize(
    ("prompt", "old", "new", "expected"),
    [
        ("a cat on a mat", "cat", "elephant", "an elephant on a mat"),
        ("A cat", "cat", "elephant", "An elephant"),
        ("An  owl", "owl", "cat", "A  cat"),
        ("a cat", "cat", "unicorn", "a unicorn"),
        ("an owl", "owl", "urinal", "a urinal"),
        ("a cat", "cat", "hourglass", "an hourglass"),
        ("a cat", "cat", "one-eyed cat", "a one-eyed cat"),
        ("a cat", "cat", "onion", "an onion"),
        ("a cat", "cat", "SUV", "an SUV"),
        ("a cat", "cat", "used car", "a used car"),
        ("a cat", "cat", "uninhabited island", "an uninhabited island"),
        ("a cat", "cat", "éclair", "an éclair"),
        ("a cat", "cat", "8-ball", "an 8-ball"),
        ("the cat", "cat", "owl", "the owl"),
        ("a big cat", "cat", "owl", "a big owl"),
        ("vitamin a, cat", "cat", "owl", "vitamin a, owl"),
        ("Banana cat", "cat", "owl", "Banana owl"),
        ("Cat on a mat", "Cat", "owl", "Owl on a mat"),
        ("cat on a mat", "cat", "Owl", "Owl on a mat"),
        ("a cat", "cat", "", "a "),
    ],
)
def test_replace_word(prompt, old, new, expected):
    assert replaced(prompt, old, new) == expected


@given(captions, st.data())
@properties
def test_only_the_word_and_its_article_change(prompt, data):
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(prompt))] * 2)))
    new = data.draw(st.sampled_from(["owl", "cat", "hour", "ﬁsh", "", "İ"]))
    edited = replace_word(prompt, (start, stop), new)
    assert edited.endswith(new[1:] + prompt[stop:])
    before = edited[: len(edited) - len(prompt) + stop].lower().removesuffix(new.lower())
    kept = re.sub(r"\ban?(\s+)$", r"\1", prompt[:start].lower())
    assert re.sub(r"\ban?(\s+)$", r"\1", before) == kept


@pytest.mark.parametrize(
    ("prompt", "noun", "adjective", "expected"),
    [
        ("a cat", "cat", "orange", "an orange cat"),
        ("An old cat", "cat", "orange", "An old orange cat"),
        ("An orange", "orange", "big", "A big orange"),
        ("Cat on a mat", "Cat", "orange", "Orange cat on a mat"),
        ("TV on a table", "TV", "old", "Old TV on a table"),
        ("Grumbleflock at sea", "Grumbleflock", "old", "Old Grumbleflock at sea"),
        ("the wine glass", "wine glass", "empty", "the empty wine glass"),
    ],
)
def test_insert_adjective(prompt, noun, adjective, expected):
    assert insert_adjective(prompt, find_word(prompt, noun)[0], adjective) == expected
