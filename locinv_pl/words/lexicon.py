"""Word lists: the closed classes of English, and words that the dictionary lacks or says too little of."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# --- the closed classes ---

# Determiners that announce one thing, or several: a noun phrase agrees with them.
SINGULAR = _words("1 a an another each either every neither one that this")
PLURAL = _words(
    "both eight eleven few five four hundred many multiple nine numerous several seven six ten these those three"
    " twelve twenty two various"
)
# They begin a noun phrase.
DETERMINERS = SINGULAR | PLURAL | _words("any her his its my no our some the their what your")
# They begin a clause about the noun before them, as "that" does after a noun.
RELATIVES = _words("which who")
# Subjects and auxiliaries: a verb comes next.
SUBJECTS = _words("could did do does he i may might must shall she should they we will would")
# An adjective after one describes the subject.
COPULAS = _words("are is was were")
# They join adjectives or phrases.
COORDINATORS = _words("& , / and or")
# In a noun phrase or beside a verb they describe nothing.
FILLERS = _words(
    "all almost also even first just last least less more most nearly next now only other own quite rather really"
    " same second so still such third too very"
)
# Ways: they follow a verb ("runs through") and hardly ever a noun.
DIRECTIONS = _words("across along around away down into off onto out over past through toward towards up")
# Prepositions of a noun or of a verb in -ing.
BEFORE_VERBS = _words("after before by for from to until without")
# What they govern is no subject.
PREPOSITIONS = (
    DIRECTIONS
    | BEFORE_VERBS
    | _words(
        "about above against alongside amid among amongst as aside at atop behind below beneath beside besides"
        " between beyond despite during except in inside like near of on opposite outside per than throughout under"
        " underneath unlike upon via with within"
    )
)
# The rest of the closed classes: no nouns, adjectives or verbs to be looked up.
OTHERS = _words(
    "although am anyone anything aren be because been being but didn doesn don everyone everything had hadn has"
    " hasn have haven having here herself him himself how if isn it itself me myself nobody none nor not nothing"
    " ours since someone something theirs them themselves there though unless us wasn weren when where whether"
    " while whom whose why wouldn yet you yourself"
)
# The closed class of each word by its letter, a tag of the grammar.
CLOSED = {
    word: kind
    for kind, words in {
        "d": DETERMINERS,
        "t": RELATIVES,
        "s": SUBJECTS,
        "b": COPULAS,
        "c": COORDINATORS,
        "r": FILLERS,
        "p": PREPOSITIONS,
        "o": OTHERS,
    }.items()
    for word in words
}

# --- what the dictionary does not tell ---

# Nouns that lemminflect knows as verbs or adjectives only.
MISSING_NOUNS = _words("lounge pan remote tin")
# Plurals that no -s shows.
ONLY_PLURAL = _words("cattle police")
# Plurals where lemminflect puts another, "persons" or "fishes", first.
COMMON_PLURALS = {"person": "people", "fish": "fish"}
# Nouns that name no thing unless an article makes them one ("an orange" is none of these).
COLOURS = _words(
    "aqua beige black blue brown crimson cyan dark gold golden gray green grey khaki lavender magenta"
    " maroon multicolor multicolored navy pink purple red scarlet silver tan teal turquoise white yellow"
)
# Nouns that describe the noun after them, as the colours do.
MATERIALS = _words(
    "bamboo brass brick bronze canvas cardboard cement clay concrete copper cotton denim fabric fur glass granite"
    " iron lace leather linen marble metal nylon paper plastic porcelain rubber satin silk steel stone straw suede"
    " tin velvet vinyl wicker wood wool"
)
# The dictionary has them as adjectives as well, but before a noun they are a part of its name.
ADJUNCTS = _words(
    "animal arch bay cherry cloth corner counter country cream dress fork fossil game ginger grizzly head home house"
    " monorail motor net party piano pickup pilot plane record root salt seed shadow shot soul stable stock tarmac"
    " trick uniform vegetable video"
)
# Parts and positions: no things of their own.
PLACES = _words(
    "back background bottom center centre close cold edge end foreground front full half left low middle private"
    " public rear right side sides top tops"
)
# Before "of" they count or frame the things that follow.
MEASURES = _words(
    "amount array assortment bit bits bunch bunches collection couple crowd display dozen dozens flock group groups"
    " handful herd herds image images kind kinds line lot lots number pack pair pairs part photo photograph picture"
    " piece pieces pile piles portion row rows scene school selection series set sets shot slice slices sort stack"
    " stacks team type types variety view"
)
# Verbs in -ing that name a thing.
ING_THINGS = _words(
    "bedding building carving clothing covering crossing drawing dressing filling flooring frosting icing landing"
    " lighting marking opening painting plumbing railing serving setting siding stuffing topping wedding writing"
)
# Verbs in -ing that tell what the next noun is for ("a dining table").
ING_PURPOSES = ING_THINGS | _words(
    "baking boxing bowling cooking cutting cycling dining diving fishing frying living mixing parking racing"
    " roasting sailing sewing shipping shopping skating skiing swimming training vending waiting washing watering"
    " wrapping"
)
# Past participles like their present; their nouns are rare.
INVARIANT_PASTS = _words("cut hit put")
# Adjectives that make a new name of their noun.
COMPOUNDS = frozenset({("french", "fry"), ("high", "chair"), ("hot", "dog"), ("remote", "control")})
