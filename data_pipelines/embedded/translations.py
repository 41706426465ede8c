"""Sentences around dates, times, numbers, money, measures and countries in English, German and French.

The values are written as each language writes them by Babel, from the Unicode Common Locale Data Repository; the
sentences are the project's own. 3:05 PM becomes 15:05, 1,234.5 becomes 1.234,5, March 3 becomes 3. März: what a
translator must carry over letter by letter, and what must change, are both there, and so is the true answer.
"""

import datetime
import random
import re
from collections.abc import Callable
from typing import Any

LANGUAGES = ("en", "de", "fr")

TEMPLATES: list[dict[str, str]] = [
    {"en": "{date}", "de": "{date}", "fr": "{date}"},
    {"en": "The meeting begins on {date} at {time}.", "de": "Die Sitzung beginnt am {date} um {time}.",
     "fr": "La réunion commence le {date} à {time}."},
    {"en": "Our train leaves at {time} and arrives at {time}.", "de": "Unser Zug fährt um {time} ab und kommt um {time} an.",
     "fr": "Notre train part à {time} et arrive à {time}."},
    {"en": "The shop is open from {time} to {time}.", "de": "Der Laden ist von {time} bis {time} geöffnet.",
     "fr": "Le magasin est ouvert de {time} à {time}."},
    {"en": "She was born on {date}.", "de": "Sie wurde am {date} geboren.", "fr": "Elle est née le {date}."},
    {"en": "Please pay {money} by {date}.", "de": "Bitte zahlen Sie bis {date} {money}.",
     "fr": "Veuillez payer {money} avant le {date}."},
    {"en": "The ticket costs {money}.", "de": "Die Fahrkarte kostet {money}.", "fr": "Le billet coûte {money}."},
    {"en": "Last year the price was {money}, today it is {money}.",
     "de": "Letztes Jahr war der Preis {money}, heute ist er {money}.",
     "fr": "L'année dernière, le prix était de {money}, aujourd'hui il est de {money}."},
    {"en": "{percent} of all visitors came from abroad.", "de": "{percent} aller Besucher kamen aus dem Ausland.",
     "fr": "{percent} des visiteurs venaient de l'étranger."},
    {"en": "The town has {number} inhabitants.", "de": "Die Stadt hat {number} Einwohner.",
     "fr": "La ville compte {number} habitants."},
    {"en": "The library owns {number} books and {number} maps.",
     "de": "Die Bibliothek besitzt {number} Bücher und {number} Karten.",
     "fr": "La bibliothèque possède {number} livres et {number} cartes."},
    {"en": "The parcel weighs {weight}.", "de": "Das Paket wiegt {weight}.", "fr": "Le colis pèse {weight}."},
    {"en": "The river is {length} long.", "de": "Der Fluss ist {length} lang.", "fr": "La rivière est longue de {length}."},
    {"en": "It takes {duration} on foot.", "de": "Zu Fuß dauert es {duration}.", "fr": "À pied, il faut {duration}."},
    {"en": "Countries on the list: {country}, {country}, {country}.",
     "de": "Länder auf der Liste: {country}, {country}, {country}.",
     "fr": "Pays sur la liste : {country}, {country}, {country}."},
    {"en": "From: {country}, to: {country}, date: {date}.", "de": "Von: {country}, nach: {country}, Datum: {date}.",
     "fr": "De : {country}, à : {country}, date : {date}."},
]  # fmt: skip


def embedded_translations(source_lang: str, target_lang: str, pairs: int = 6_000) -> dict[str, list[tuple[str, str]]]:
    """`train` (10 parts of 12), `validation` and `test` (1 part each): pairs of sentences, none in two splits.

    Raises:
        ValueError: a language other than `LANGUAGES`.
    """
    for language in (source_lang, target_lang):
        if language not in LANGUAGES:
            raise ValueError(f"embedded: the language is {language!r}; expected one of {LANGUAGES}. Pass --data for others.")
    generator = random.Random(0)
    known: dict[str, str] = {}
    while len(known) < pairs:
        source, target = _sentence(generator, source_lang, target_lang)
        known.setdefault(source, target)
    examples = list(known.items())
    part = pairs // 12
    return {"train": examples[2 * part :], "validation": examples[:part], "test": examples[part : 2 * part]}


def _sentence(generator: random.Random, source_lang: str, target_lang: str) -> tuple[str, str]:
    template = generator.choice(TEMPLATES)
    slots = re.findall(r"\{(\w+)\}", template["en"])
    write = [SLOTS[slot](generator) for slot in slots]
    return _fill(template, source_lang, slots, write), _fill(template, target_lang, slots, write)


def _fill(template: dict[str, str], language: str, slots: list[str], write: list[Callable[[str], str]]) -> str:
    """Values of a kind are in the same order in all languages; kinds may change places."""
    waiting = {slot: [w for s, w in zip(slots, write) if s == slot] for slot in slots}
    text = re.sub(r"\{(\w+)\}", lambda match: waiting[match[1]].pop(0)(language), template[language])
    return re.sub(r"[\u00a0\u202f]", " ", text)


def _date(generator: random.Random) -> Callable[[str], str]:
    from babel.dates import format_date

    date = datetime.date(1900, 1, 1) + datetime.timedelta(days=generator.randrange(55_000))
    style = generator.choice(["long", "long", "full"])
    return lambda language: format_date(date, style, locale=language)


def _time(generator: random.Random) -> Callable[[str], str]:
    from babel.dates import format_time

    time = datetime.time(generator.randrange(24), generator.randrange(12) * 5)
    return lambda language: format_time(time, "short", locale=language)


def _number(generator: random.Random) -> Callable[[str], str]:
    from babel.numbers import format_decimal

    value = generator.randrange(1, 10 ** generator.randint(3, 7))
    return lambda language: format_decimal(value, locale=language)


def _money(generator: random.Random) -> Callable[[str], str]:
    from babel.numbers import format_currency

    value = generator.randrange(1, 10 ** generator.randint(3, 6)) / 100
    code = generator.choice(["EUR", "USD", "GBP"])
    style: Any = generator.choice(["standard", "standard", "name"])
    return lambda language: format_currency(value, code, locale=language, format_type=style)


def _percent(generator: random.Random) -> Callable[[str], str]:
    from babel.numbers import format_decimal

    value = generator.randrange(1, 1000) / 10
    sign = {"en": "%", "de": " %", "fr": " %"}
    return lambda language: format_decimal(value, locale=language) + sign[language]


def _measure(*units: str) -> Callable[[random.Random], Callable[[str], str]]:
    def draw(generator: random.Random) -> Callable[[str], str]:
        from babel.units import format_unit

        value: Any = generator.choice([generator.randrange(1, 1000), generator.randrange(11, 999) / 10])
        unit = generator.choice(units)
        return lambda language: format_unit(value, unit, locale=language)

    return draw


def _country(generator: random.Random) -> Callable[[str], str]:
    from babel import Locale

    names = {language: Locale(language).territories for language in LANGUAGES}
    codes = sorted(c for c in set.intersection(*(set(n) for n in names.values())) if len(c) == 2 and c.isalpha())
    code = generator.choice(codes)
    return lambda language: names[language][code]


SLOTS: dict[str, Callable[[random.Random], Callable[[str], str]]] = {
    "date": _date,
    "time": _time,
    "number": _number,
    "money": _money,
    "percent": _percent,
    "weight": _measure("mass-kilogram", "mass-gram", "mass-ton"),
    "length": _measure("length-kilometer", "length-meter", "length-mile"),
    "duration": _measure("duration-hour", "duration-minute", "duration-day"),
    "country": _country,
}
