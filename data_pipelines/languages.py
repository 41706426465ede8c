"""Languages by name or code: ISO 639 codes of two and three letters, with regions, and some English names."""

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


def language_code(language: str) -> str:
    """The name without its region.

    >>> language_code("zh-CN"), language_code("de_AT"), language_code("German")
    ('zh', 'de', 'german')
    """
    return language.lower().replace("_", "-").split("-")[0]
