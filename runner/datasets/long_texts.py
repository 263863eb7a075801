"""Generates long synthetic texts (chronicles, code, tables) that refer back to their earlier parts.

Each text has some hundred figures of its own, made up by a seed, and names each of them again
and again with all that belongs to it: a trade, a town and a seal; arguments and results; an
account and its balance. The last mention is a few or very many mentions back, each order of
magnitude as often: so a model that looks back further predicts more of the text at every
length. The texts show whether a model uses a context, and up to which length. They do not show
how well it understands real texts, in which most of what helps is near, nor whether it reasons
about them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count
from random import Random

from runner_base import DataError

DATA = "long"  # what task.data calls them
DOCUMENTS = 60  # a test needs 50
AT_FIRST = 6  # figures that are named before any is named again
NEW_SHARE = 0.12  # of the later mentions: a figure that was not named before

# fmt: off
FIRST = ("Abel", "Ansa", "Berrin", "Bodil", "Cador", "Cinna", "Dorrit", "Edda", "Elwin", "Fenna", "Garrick", "Greta",
         "Hale", "Ilse", "Jorun", "Kester", "Lorcan", "Maud", "Nessa", "Odra", "Orrin", "Pelle", "Quill", "Ranna",
         "Sefton", "Signy", "Tamsin", "Torben", "Ulla", "Verrick", "Wenna", "Yorick")
NAME_STARTS = ("Ash", "Birch", "Cold", "Dun", "Elder", "Fal", "Grim", "Hazel", "Iron", "Kettle", "Lang", "Marrow",
               "Nether", "Oak", "Pell", "Quarr", "Raven", "Sorrel", "Thorn", "Ulver", "Whit", "Yarrow")
NAME_ENDS = ("bridge", "brook", "croft", "dale", "field", "ford", "gate", "holt", "ley", "mere", "moor", "ridge",
             "shaw", "stead", "stone", "thwaite", "wick", "worth")
TOWN_STARTS = ("East", "West", "Nine", "Upper", "Lower", "Saint", "Old", "Black", "Fair", "High", "Long", "Salt")
TOWN_ENDS = ("Anvil", "Barrow", "Chapel", "Ditch", "Elms", "Ferry", "Gallows", "Harbour", "Isle", "Kiln", "Landing",
             "Mill", "Orchard", "Quay", "Reach", "Staithe", "Tower", "Weir")
TRADES = ("cooper", "bellfounder", "glazier", "tanner", "miller", "chandler", "fletcher", "saddler", "scrivener",
          "mason", "weaver", "dyer", "apothecary", "farrier", "thatcher", "brewer", "cartwright", "ropemaker",
          "clockmaker", "falconer", "lamplighter", "organist", "beekeeper", "locksmith")
ANIMALS = ("a heron", "an otter", "a badger", "a lynx", "a raven", "a salmon", "a stag", "a wren", "a viper", "a boar",
           "a crane", "a hare", "a marten", "an owl", "a pike", "a swan")
OBJECTS = ("keys", "reeds", "bells", "stars", "anchors", "sheaves", "lanterns", "arrows", "crowns", "shells", "wheels",
           "ladders", "spades", "roses", "towers", "knots")
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine")
GOODS = ("plum vinegar", "lamp oil", "grey wool", "copper nails", "barley", "beeswax", "hemp rope", "window glass",
         "goose quills", "alum", "smoked eel", "chestnut flour", "pine tar", "blue slate", "saffron", "candle wick")
MONTHS = ("Frostmonth", "Thawmonth", "Seedmonth", "Rainmonth", "Reedmonth", "Haymonth", "Cornmonth", "Winemonth",
          "Leafmonth", "Fogmonth", "Slaughtermonth", "Yulemonth")
VERBS = ("settle", "weigh", "fold", "rank", "pack", "trim", "seal", "count", "blend", "carve", "lift", "mark")
UNITS = ("furlongs", "bushels", "fathoms", "drams", "hogsheads", "quires", "ells", "firkins", "scruples", "tuns")
# fmt: on
SENTENCES = (
    "On the {day} of {month}, {a} sold {n} measures of {goods} to {b}.",
    "In {month} {a} lent {n} crowns to {b}, and had it written down.",
    "{b} asked for news of {a}, and was told of {n} barrels of {goods} on the quay.",
    "It was {a} who carried the letter of {b} over the pass, {n} leagues in the rain of {month}.",
    "The wardens heard {a} in the matter of {n} measures of {goods}, and then {b}.",
    "{a} dreamt of {goods}, and paid {b} a debt of {n} crowns on the {day} of {month}.",
    "Before the snow came, {a} and {b} shared the cost of {n} cartloads of {goods}.",
    "A boat with {goods} came in on the {day} of {month}; {a} bought {n} measures of it, {b} the rest.",
)


@dataclass
class StoryPerson:
    """A person in a generated text, with attributes that stay the same throughout the text."""

    name: str
    trade: str
    town: str
    seal: str
    account: str
    argument: int
    limit: int
    balance: int

    @property
    def full_name(self) -> str:
        return f"{self.name}, the {self.trade} of {self.town} under the seal of {self.seal},"

    @property
    def function_result(self) -> int:
        """Return value of the generated function that belongs to this person."""
        return 3 * self.argument + self.limit


class PersonSelector:
    """Selects the person that a generated text mentions next: a new person, a recent one, or one from
    long before.
    """

    def __init__(self, random: Random, create_person: Callable[[Random], StoryPerson]) -> None:
        self.random, self.make = random, create_person
        self.latest_first: list[StoryPerson] = []
        self.names: set[str] = set()

    def select_next_person(self) -> StoryPerson:
        known = len(self.latest_first)
        if known < AT_FIRST or self.random.random() < NEW_SHARE:
            figure = self._new_figure()
        else:
            rank = int(math.exp(self.random.random() * math.log(known)))
            figure = self.latest_first.pop(rank)
        self.latest_first.insert(0, figure)
        return figure

    def _new_figure(self) -> StoryPerson:
        while True:
            figure = self.make(self.random)
            if figure.name not in self.names:
                self.names.add(figure.name)
                return figure


def create_random_person(random: Random) -> StoryPerson:
    town = f"{random.choice(TOWN_STARTS)} {random.choice(TOWN_ENDS)}"
    seal = f"{random.choice(ANIMALS)} above {random.choice(NUMBERS)} {random.choice(OBJECTS)}"
    surname = f"{random.choice(NAME_STARTS)}{random.choice(NAME_ENDS)}"
    name = f"{random.choice(FIRST)} {surname}"
    trade = random.choice(TRADES)
    account = f"{random.choice(VERBS)}_{surname.lower()}_{random.choice(UNITS)}"
    return StoryPerson(
        name, trade, town, seal, account, random.randint(11, 98), random.randint(1000, 9999), 0
    )


def generate_chronicle(random: Random) -> Iterator[str]:
    cast = PersonSelector(random, create_random_person)
    yield f"The chronicle of {random.choice(TOWN_STARTS)} {random.choice(TOWN_ENDS)}, as its clerks have kept it.\n\n"
    while True:
        sentences = []
        for _ in range(random.randint(3, 5)):
            sentence = random.choice(SENTENCES).format(
                a=cast.select_next_person().full_name,
                b=cast.select_next_person().full_name.removesuffix(","),
                n=random.choice(NUMBERS),
                goods=random.choice(GOODS),
                day=f"{random.randint(4, 20)}th",
                month=random.choice(MONTHS),
            )
            sentences.append(sentence)
        yield " ".join(sentences) + "\n\n"


def generate_synthetic_code(random: Random) -> Iterator[str]:
    """Yield the functions of a random Python module, and assertions that call these functions."""
    cast = PersonSelector(random, create_random_person)
    yield '"""Measures and limits, each with its owner, and checks of them."""\n\n\n'
    defined: set[str] = set()
    for number in count(1):
        person = cast.select_next_person()
        owner = f"{person.name}, {person.trade} of {person.town}"
        if person.name not in defined:
            defined.add(person.name)
            yield (
                f"def {person.account}(part={person.argument}, limit={person.limit}):\n"
                f'    """Owned by {owner}: {person.seal}."""\n'
                f"    return 3 * part + limit\n\n\n"
            )
            continue
        yield (
            f"def test_{number}():  # of {owner}: {person.seal}\n"
            f"    assert {person.account}(part={person.argument}, "
            f"limit={person.limit}) == {person.function_result}\n\n\n"
        )


def generate_ledger(random: Random) -> Iterator[str]:
    """Yield the rows of a random ledger with consistent balances."""
    cast = PersonSelector(random, create_random_person)
    yield "| entry | account | holder | town | seal | change | balance |\n|---|---|---|---|---|---|---|\n"
    for number in count(1):
        person = cast.select_next_person()
        change = random.randint(1, 40)
        person.balance += change
        holder = f"{person.name}, {person.trade}"
        yield (
            f"| {number} | {person.account} | {holder} | {person.town} | {person.seal} "
            f"| +{change} | {person.balance} |\n"
        )


# so many characters have more than 16,384 + 256 tokens, also where a tokenizer takes three digits
# as one
KINDS: dict[str, tuple[Callable[[Random], Iterator[str]], int]] = {
    "prose": (generate_chronicle, 76_000),
    "code": (generate_synthetic_code, 56_000),
    "table": (generate_ledger, 56_000),
}


def reject_synthetic_texts_as_questions(config_key: str, data: str) -> None:
    if data == DATA:
        raise DataError(
            "the synthetic texts contain no questions. Use task=likelihood",
            key=config_key,
            value=data,
            code="unsupported",
        )


def iterate_synthetic_texts() -> Iterator[tuple[str, dict[str, str]]]:
    for index in range(DOCUMENTS):
        yield (
            f"task.data={DATA}, text {index}",
            {"text": generate_synthetic_text(index), "category": get_text_category(index)},
        )


@cache
def generate_synthetic_text(index: int) -> str:
    """Return the synthetic text with this index. Equal indices give equal texts."""
    kind = get_text_category(index)
    write, least = KINDS[kind]
    parts: list[str] = []
    size = 0
    for part in write(Random(f"long/{kind}/{index}")):
        parts.append(part)
        size += len(part)
        if size >= least:
            break
    return "".join(parts)


def get_text_category(index: int) -> str:
    return list(KINDS)[index % len(KINDS)]
