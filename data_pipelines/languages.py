"""Languages by name or code: ISO 639 codes of two and three letters, with regions, and some English names."""

from collections.abc import Iterable

CHINESE = frozenset("zh zho chi cmn yue wuu chinese".split())
JAPANESE = frozenset("ja jpn japanese".split())
KOREAN = frozenset("ko kor korean".split())
SOUTH_EAST_ASIAN = frozenset("th tha thai lo lao km khm khmer my mya burmese bo bod tibetan".split())

# Languages that write no spaces between words.
UNSPACED = CHINESE | JAPANESE | SOUTH_EAST_ASIAN

# Languages that write ordinal numbers with a period, as in German "3. März".
ORDINALS = frozenset(
    "bs bos cs ces cze da dan danish de deu ger german deutsch et est fi fin finnish fo hr hrv hu hun hungarian is isl lb lv lav "
    "mk nb nob nn nno no nor norwegian pl pol polish sk slk sl slv sr srp tr tur turkish czech".split()
)

# Codes of two letters, English and native names of common languages.
_COMMON = frozenset(
    "en english de german deutsch fr french français es spanish español castellano it italian italiano pt portuguese português "
    "nl dutch nederlands sv swedish svenska da danish dansk no nb nn norwegian norsk fi finnish suomi is icelandic íslenska pl "
    "polish polski cs czech čeština sk slovak slovenčina sl slovenian slovenščina hr croatian hrvatski sr serbian српски bg "
    "bulgarian български mk macedonian македонски ro romanian română hu hungarian magyar el greek ελληνικά tr turkish türkçe ru "
    "russian русский uk ukrainian українська be belarusian беларуская lt lithuanian lietuvių lv latvian latviešu et estonian "
    "eesti ar arabic العربية he hebrew עברית fa persian فارسی ur urdu اردو hi hindi हिन्दी bn bengali বাংলা ta tamil te telugu "
    "zh chinese 中文 ja japanese 日本語 ko korean 한국어 vi vietnamese id indonesian ms malay ka georgian hy armenian sw "
    "swahili af afrikaans ca catalan català eu basque euskara gl galician galego ga irish gaeilge cy welsh cymraeg la latin eo "
    "esperanto eng deu ger fra fre spa ita por nld dut swe dan nor fin pol ces cze rus ukr tur ara heb hin zho chi jpn kor vie "
    "source target src tgt".split()
)
_NAMES = _COMMON | CHINESE | JAPANESE | KOREAN | SOUTH_EAST_ASIAN | ORDINALS


def name_languages(cells: Iterable[str]) -> bool:
    """Whether cells are the header of a table of translations: two are names of languages, or `source` and `target`.

    >>> name_languages(["id", "German", "English"]), name_languages(["no", "no"]), name_languages(["Go.", "Va !"])
    (True, False, False)
    """
    return len({language_code(cell.strip()) for cell in cells} & _NAMES) > 1


def language_code(language: str) -> str:
    """The name without its region.

    >>> language_code("zh-CN"), language_code("de_AT"), language_code("German")
    ('zh', 'de', 'german')
    """
    return language.lower().replace("_", "-").split("-")[0]
