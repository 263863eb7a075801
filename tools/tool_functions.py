"""The functions of the questions of task=tools that ship, and how people ask for what each of them
does."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

NO_DEFAULT = ""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function, and the values that questions name for it."""

    name: str
    type: str
    description: str
    pool: tuple[Any, ...]
    is_required: bool = True
    default: Any = NO_DEFAULT
    choices: tuple[str, ...] = ()

    @property
    def schema(self) -> dict[str, Any]:
        """Return it as JSON schema."""
        is_list = self.type.endswith("[]")
        kind: dict[str, Any] = {"type": self.type}
        if is_list:
            kind = {"type": "array", "items": {"type": self.type.removesuffix("[]")}}
        if self.choices:
            kind["enum"] = [*self.choices]
        usual = "" if self.default == NO_DEFAULT else f" (default: {self.default})"
        return kind | {"description": f"{self.description}{usual}"}


@dataclass(frozen=True)
class Wording:
    """A way to ask: a text with slots for values, and values that the text itself says."""

    text: str
    fixed: dict[str, Any] = field(default_factory=dict)

    @property
    def slots(self) -> list[str]:
        """Return the parameters that the text names."""
        return re.findall(r"\{(\w+)\}", self.text)


@dataclass(frozen=True)
class Function:
    """A function with the wordings that ask for it."""

    domain: str
    name: str
    description: str
    parameters: tuple[Parameter, ...]
    wordings: tuple[Wording, ...]

    def parameter(self, name: str) -> Parameter:
        return next(one for one in self.parameters if one.name == name)

    @property
    def schema(self) -> dict[str, Any]:
        """Return it as it is offered."""
        properties = {one.name: one.schema for one in self.parameters}
        required = [one.name for one in self.parameters if one.is_required]
        parameters = {"type": "object", "properties": properties, "required": required}
        return {"name": self.name, "description": self.description, "parameters": parameters}


CITIES = (
    "Lisbon",
    "Oslo",
    "Nairobi",
    "Kyoto",
    "Lima",
    "Quebec",
    "Ghent",
    "Perth",
    "Tallinn",
    "Naples",
    "Hanoi",
    "Graz",
)
DATES = (
    "2026-03-02",
    "2026-04-17",
    "2026-05-09",
    "2026-06-21",
    "2026-07-30",
    "2026-09-05",
    "2026-10-12",
    "2026-11-28",
)
TIMES = ("07:15", "08:30", "09:45", "11:00", "13:20", "16:40", "18:05", "21:10")
PEOPLE = (
    "Ada Brandt",
    "Jonas Okoye",
    "Mina Sato",
    "Luis Ferrer",
    "Greta Holm",
    "Omar Haddad",
    "Nora Quinn",
    "Ivo Novak",
)
MAILS = (
    "ada@brandt.example",
    "jonas@okoye.example",
    "mina@sato.example",
    "luis@ferrer.example",
    "greta@holm.example",
)
ROOMS = ("kitchen", "bedroom", "hallway", "office", "bathroom", "garage", "cellar", "nursery")
CURRENCIES = ("EUR", "USD", "JPY", "CHF", "NOK", "GBP", "PEN", "AUD")
AMOUNTS = (12.5, 40.0, 75.25, 99.9, 120.0, 250.75, 480.0, 1300.5)
SMALL = (2, 3, 4, 5, 6, 7, 8, 9)
LENGTHS = (1.5, 2.0, 3.25, 4.5, 7.0, 12.75, 18.0, 33.5)
ARTISTS = ("the Amber Kites", "Solveig Dahl", "Tin Harbor", "The Slow Rivers", "Marta Lund", "Copper Owls")
BOOKS = (
    "The Salt Road",
    "A Winter in Graz",
    "Seven Lanterns",
    "The Quiet Orchard",
    "Maps of Rain",
    "The Glass Ferry",
)
PRODUCTS = (
    "desk lamp",
    "rain jacket",
    "hiking boots",
    "tea kettle",
    "bicycle pump",
    "wool blanket",
    "alarm clock",
)
PLANTS = ("fern", "lemon tree", "basil", "orchid", "cactus", "ivy")
LANGUAGES = ("Portuguese", "Norwegian", "Swahili", "Japanese", "French", "Estonian", "Italian", "Vietnamese")
PHRASES = (
    "good morning",
    "where is the station",
    "two tickets please",
    "thank you very much",
    "the bill please",
)
NUMBERS = ((4, 8, 15), (12, 7, 30, 2), (101, 55), (9, 9, 27), (64, 16, 4), (3, 14, 15, 92))
GROUPS = (
    ["milk", "rice"],
    ["apples", "bread", "salt"],
    ["onions", "tea"],
    ["eggs", "flour", "honey"],
    ["beans", "oil"],
)
CODES = ("KL-2291", "ZX-4410", "PB-7035", "RT-1188", "MN-9062", "QA-3377")
TOPICS = ("invoice for March", "team lunch", "new printer", "holiday rota", "budget draft", "roof repair")


def needed(name: str, kind: str, description: str, pool: Any, choices: tuple[str, ...] = ()) -> Parameter:
    """Return a parameter that every call has."""
    return Parameter(name, kind, description, tuple(pool), choices=choices)


def free(
    name: str, kind: str, description: str, pool: Any, default: Any, choices: tuple[str, ...] = ()
) -> Parameter:
    """Return a parameter that may be left out."""
    return Parameter(name, kind, description, tuple(pool), False, default, choices)


def asks(*texts: str, **fixed: Any) -> tuple[Wording, ...]:
    """Return wordings that say the same values themselves."""
    return tuple(Wording(text, fixed) for text in texts)


UNITS = ("celsius", "fahrenheit")
FUNCTIONS: tuple[Function, ...] = (
    Function(
        "weather", "get_forecast", "Returns the weather forecast of a city.",
        (needed("city", "string", "The name of the city", CITIES),
         free("days", "integer", "How many days the forecast covers", SMALL, 1),
         free("unit", "string", "The unit of temperatures", UNITS, "celsius", UNITS)),
        asks("What will the weather in {city} be like over the next {days} days?",
             "Give me the forecast for {city}, in {unit}.",
             "Show the {days}-day weather forecast of {city} in {unit}."),
    ),
    Function(
        "weather", "get_air_quality", "Returns the air quality index of a city on a day.",
        (needed("city", "string", "The name of the city", CITIES),
         needed("date", "string", "The day, as YYYY-MM-DD", DATES)),
        asks("How clean is the air in {city} on {date}?", "I need the air quality index of {city} for {date}."),
    ),
    Function(
        "weather", "get_sun_times", "Returns when the sun rises and sets in a city on a day.",
        (needed("city", "string", "The name of the city", CITIES),
         needed("date", "string", "The day, as YYYY-MM-DD", DATES)),
        asks("When does the sun rise in {city} on {date}?", "At what time is sunset in {city} on {date}?"),
    ),
    Function(
        "calendar", "create_event", "Puts an event into the user's calendar.",
        (needed("title", "string", "What the event is called", TOPICS),
         needed("date", "string", "The day, as YYYY-MM-DD", DATES),
         needed("start", "string", "When it begins, as HH:MM", TIMES),
         free("minutes", "integer", "How long it lasts", (15, 30, 45, 90, 120), 60)),
        asks("Put '{title}' into my calendar on {date} at {start}.",
             "Create a calendar event called '{title}' on {date}, from {start}, for {minutes} minutes."),
    ),
    Function(
        "calendar", "list_events", "Lists the events of the user's calendar on a day.",
        (needed("date", "string", "The day, as YYYY-MM-DD", DATES),),
        asks("What is in my calendar on {date}?", "List my appointments of {date}."),
    ),
    Function(
        "calendar", "set_reminder", "Reminds the user of something at a time.",
        (needed("text", "string", "What to remind of", TOPICS),
         needed("date", "string", "The day, as YYYY-MM-DD", DATES),
         needed("time", "string", "The time, as HH:MM", TIMES)),
        asks("Remind me of '{text}' on {date} at {time}.", "Set a reminder '{text}' for {time} on {date}."),
    ),
    Function(
        "mail", "send_email", "Sends an email.",
        (needed("to", "string[]", "The addresses it goes to", [[one] for one in MAILS] + [[*MAILS[:2]], [*MAILS[3:]]]),
         needed("subject", "string", "The subject", TOPICS),
         needed("body", "string", "The text", ("Please see the file.", "I will be late.", "Can we talk?"))),
        asks("Send an email to {to} with the subject '{subject}' and the text '{body}'",
             "Write to {to}. The subject is '{subject}', and the whole text is '{body}'"),
    ),
    Function(
        "mail", "search_mail", "Searches the user's mailbox by sender.",
        (needed("sender", "string", "The name of who wrote", PEOPLE),
         free("is_unread", "boolean", "Whether only unread messages are searched", (True,), False)),
        (*asks("Find all mails in my mailbox that {sender} has sent me."),
         *asks("Which unread mails from {sender} do I have?", is_unread=True)),
    ),
    Function(
        "money", "convert_currency", "Converts an amount of money into another currency.",
        (needed("amount", "number", "The amount", AMOUNTS),
         needed("source", "string", "The currency it is in, as three letters", CURRENCIES[:4]),
         needed("target", "string", "The currency that is wanted, as three letters", CURRENCIES[4:])),
        asks("How much is {amount} {source} in {target}?", "Convert {amount} {source} into {target}."),
    ),
    Function(
        "money", "transfer_money", "Transfers money to a person.",
        (needed("recipient", "string", "The name of the person", PEOPLE),
         needed("amount", "number", "The amount", AMOUNTS),
         needed("currency", "string", "Its currency, as three letters", CURRENCIES),
         free("note", "string", "What the recipient reads beside it", TOPICS, NO_DEFAULT)),
        asks("Transfer {amount} {currency} to {recipient}.",
             "Send {recipient} {amount} {currency} with the note '{note}'."),
    ),
    Function(
        "money", "calculate_loan", "Calculates the monthly rate of a loan.",
        (needed("principal", "integer", "The amount of the loan", (5000, 12000, 30000, 80000)),
         needed("rate", "number", "The yearly interest in percent", (2.5, 3.0, 4.75, 6.1)),
         needed("years", "integer", "How long it runs", (5, 10, 15, 20))),
        asks("What is the monthly rate of a loan of {principal} at {rate} percent a year over {years} years?",
             "I borrow {principal} for {years} years at a yearly interest of {rate} percent: what do I pay a month?"),
    ),
    Function(
        "home", "set_light", "Switches the light of a room.",
        (needed("room", "string", "The room", ROOMS),
         needed("is_on", "boolean", "Whether the light is on afterwards", (True, False)),
         free("brightness", "integer", "How bright it is, in percent", (20, 35, 60, 80), 100)),
        (*asks("Turn the light in the {room} on.", "Switch on the {room} light at {brightness} percent.", is_on=True),
         *asks("Turn the light in the {room} off.", is_on=False)),
    ),
    Function(
        "home", "set_heating", "Sets the temperature of a room.",
        (needed("room", "string", "The room", ROOMS),
         needed("degrees", "number", "The temperature in degrees Celsius", (18.0, 19.5, 20.0, 21.5, 23.0))),
        asks("Heat the {room} to {degrees} degrees.", "I want {degrees} degrees Celsius in the {room}."),
    ),
    Function(
        "home", "water_plants", "Waters plants of one kind.",
        (needed("plant", "string", "The kind of plant", PLANTS),
         needed("milliliters", "integer", "How much water each gets", (100, 150, 250, 400))),
        asks("Water the {plant} with {milliliters} milliliters.",
             "Give the {plant} {milliliters} milliliters of water."),
    ),
    Function(
        "travel", "search_trains", "Searches train connections between two cities.",
        (needed("origin", "string", "Where the journey begins", CITIES[:6]),
         needed("destination", "string", "Where it ends", CITIES[6:]),
         needed("date", "string", "The day, as YYYY-MM-DD", DATES),
         free("is_direct", "boolean", "Whether only direct trains are searched", (True,), False)),
        (*asks("Which trains go from {origin} to {destination} on {date}?"),
         *asks("Find trains without a change from {origin} to {destination} on {date}.", is_direct=True)),
    ),
    Function(
        "travel", "book_hotel", "Books a room in a hotel of a city.",
        (needed("city", "string", "The city", CITIES),
         needed("check_in", "string", "The day of arrival, as YYYY-MM-DD", DATES),
         needed("nights", "integer", "How many nights", SMALL),
         free("guests", "integer", "How many people", (2, 3, 4), 1)),
        asks("Book me a hotel in {city} from {check_in}, for {nights} nights.",
             "Reserve a hotel room in {city} for {guests} people, arriving on {check_in} and staying {nights} nights."),
    ),
    Function(
        "travel", "rent_bike", "Rents bicycles in a city for some hours.",
        (needed("city", "string", "The city", CITIES),
         needed("count", "integer", "How many bicycles", SMALL),
         needed("hours", "integer", "For how many hours", SMALL)),
        asks("Rent {count} bicycles in {city} for {hours} hours.",
             "We need {count} bikes for {hours} hours in {city}."),
    ),
    Function(
        "maths", "statistics.mean", "Calculates the mean of whole numbers.",
        (needed("numbers", "integer[]", "The numbers", [[*one] for one in NUMBERS]),),
        asks("What is the mean of {numbers}?", "Calculate the average of the numbers {numbers}."),
    ),
    Function(
        "maths", "geometry.area_of_rectangle", "Calculates the area of a rectangle.",
        (needed("width", "number", "Its width in meters", LENGTHS),
         needed("height", "number", "Its height in meters", LENGTHS)),
        asks("How large is a rectangle that is {width} meters wide and {height} meters high?",
             "Compute the area of a rectangle with a width of {width} and a height of {height} meters."),
    ),
    Function(
        "maths", "least_common_multiple", "Calculates the least common multiple of whole numbers.",
        (needed("numbers", "integer[]", "The numbers", [[*one] for one in NUMBERS]),),
        asks("What is the least common multiple of {numbers}?", "Find the smallest common multiple of {numbers}."),
    ),
    Function(
        "media", "play_music", "Plays songs of an artist.",
        (needed("artist", "string", "The artist", ARTISTS),
         free("minutes", "integer", "For how long", (10, 20, 45, 90), 30),
         free("is_shuffled", "boolean", "Whether the order is random", (True,), False)),
        (*asks("Play something by {artist}.", "Play songs of {artist} for {minutes} minutes."),
         *asks("Play {artist} in random order for {minutes} minutes.", is_shuffled=True)),
    ),
    Function(
        "media", "reserve_book", "Reserves a book in the library.",
        (needed("title", "string", "The title of the book", BOOKS),
         needed("reader", "string", "The name of who will read it", PEOPLE)),
        asks("Reserve the book '{title}' for {reader}.",
             "{reader} wants to borrow '{title}': please reserve that book."),
    ),
    Function(
        "shop", "search_products", "Searches products of a shop.",
        (needed("query", "string", "What is searched", PRODUCTS),
         free("most_price", "number", "The highest price", AMOUNTS, NO_DEFAULT),
         free("order", "string", "By what they are sorted", ("price", "rating"), "relevance",
              ("relevance", "price", "rating"))),
        asks("Search the shop for: {query}.", "Which '{query}' does the shop have for no more than {most_price}?",
             "Search the shop for '{query}', sorted by {order}."),
    ),
    Function(
        "shop", "track_parcel", "Tells where a parcel is.",
        (needed("code", "string", "The code of the parcel", CODES),),
        asks("Where is my parcel {code}?", "Track the parcel with the code {code}."),
    ),
    Function(
        "shop", "add_to_list", "Adds things to the user's shopping list.",
        (needed("items", "string[]", "What is added", GROUPS),),
        asks("Put {items} on my shopping list.", "Add {items} to the shopping list."),
    ),
    Function(
        "language", "translate", "Translates a text.",
        (needed("text", "string", "The text", PHRASES),
         needed("language", "string", "The language that is wanted, in English", LANGUAGES),
         free("is_formal", "boolean", "Whether the translation is formal", (True,), False)),
        (*asks("Translate '{text}' into {language}.", "What is '{text}' in {language}?"),
         *asks("Translate '{text}' into formal {language}.", is_formal=True)),
    ),
)  # fmt: skip
