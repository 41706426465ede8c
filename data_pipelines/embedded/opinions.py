"""Words and phrases of reviews: what they are about, what praises and what blames, and what says nothing."""


def _phrases(text: str) -> list[str]:
    return [" ".join(phrase.split()) for phrase in text.split(";")]


THINGS = """
food service room staff music view coffee breakfast price bed story acting camera ending cast film plot dialogue movie
soundtrack picture screen battery keyboard sound design delivery support manual software hotel location garden pool kitchen
soup dessert wine menu bar terrace lobby shower heating parking train driver seat ticket tour guide museum exhibition concert
orchestra singer stage play book chapter translation cover phone game restaurant waiter trip holiday weekend evening
performance director script comedy drama thriller documentary direction humor romance series episode album song voice lesson
teacher course product app website order shop dress shoes car flight airline beach city
""".split()
# What the lexicon lacks or rates as neutral, though reviews are full of it.
GOOD = """
compelling moving touching witty engaging gripping thoughtful provocative poignant refreshing absorbing hilarious intelligent
powerful honest fresh original imaginative inventive subtle elegant vivid riveting unforgettable memorable heartfelt tender
graceful delicate insightful masterful accomplished rewarding satisfying worthwhile worthy remarkable stunning gorgeous
dazzling exquisite delicious tasty clean quiet spacious comfortable cosy helpful polite reliable sturdy quick well-made
well-acted well-crafted first-rate top-notch must-see lively quirky smart sharp clever deep rich warm sweet classic triumph gem
masterpiece delight treat pleasure treasure winner joy beautifully wonderfully perfectly skillfully flawless seamless timeless
universal sincere humane likable lovable spirited sophisticated ambitious daring haunting mesmerizing hypnotic enchanting
magical intriguing nuanced layered polished solid assured crisp affordable generous attentive
""".split()
BAD = """
tedious contrived predictable bland flat shallow clumsy pointless pretentious lifeless lame stale tired overlong overblown
uninspired unfunny unoriginal forgettable hackneyed cliched formulaic sappy sentimental manipulative incoherent muddled
confusing confused messy slow sluggish plodding amateurish wooden stilted hollow empty thin trite derivative generic routine
mechanical laughable ridiculous preposterous implausible cheap tacky noisy loud cramped cold greasy overpriced expensive late
rude careless unhelpful slippery broken faulty useless unreadable unwatchable unbearable insufferable heavy-handed half-baked
by-the-numbers mess bore failure disaster flop rip-off letdown waste disappointment junk garbage trash drivel nonsense
mediocrity cliche cliches poorly badly awkwardly dully dreary bleak murky undercooked stiff dated inept inane vapid soulless
charmless humorless witless pathetic repetitive redundant sloppy shoddy tiresome dumb stupid silly sleepy asleep yawn nowhere
superficial overwrought strained forced inconsistent uneven ugly dirty
""".split()
LOVE = "love like enjoy adore admire appreciate recommend treasure cherish praise".split()
LOVED = "loved liked enjoyed adored admired appreciated recommended".split()
HATE = "hate dislike despise loathe regret detest resent".split()
HATED = "hated disliked despised loathed regretted detested".split()
SPOILED = "long slow loud short small cold hot dark heavy simple clever serious easy hard expensive much many little".split()
VERY = ["", "", "", "very", "really", "so", "truly", "quite", "absolutely", "rather", "incredibly", "just", "simply", "pretty"]
NOT = ["not", "not", "not", "never", "hardly", "not very", "not really", "not at all", "not exactly", "far from", "anything but"]
WAS_NOT = ["wasn't", "isn't", "was n't", "is n't", "weren't", "aren't", "were n't", "are n't", "won't be", "wasn't very"]
DO_NOT = ["don't", "do n't", "didn't", "did n't", "do not", "did not", "could not", "couldn't", "could n't", "would n't", "never"]
OPENINGS = ["", "", "", "", "", "we came on a rainy tuesday .", "i had read about it before .", "let me be brief ."]
CLOSINGS = ["", "", "", "", "", "that is all there is to say .", "we went home at nine .", "i wrote this on the way back ."]
FIXED = {
    "positive": _phrases("""
thank you for everything; could not be better; couldn't have been better; it could n't have been better; no complaints at all;
worth every penny; well worth seeing; worth a look; do not miss it; don't miss it; must be seen; i want to see it again; i
would go again; we will come back; i can't wait to go back; five stars; two thumbs up; exceeded all expectations; better than
expected; much better than the first one; best in years; one of the best of the year; the best i ever had; made me laugh and
cry; it made me smile; kept me on the edge of my seat; never a dull moment; there is nothing bad about it; nothing to complain
about; i had a great time; works like a charm; money well spent; i could watch it all day
"""),
    "negative": _phrases("""
what a waste of time; a waste of money; don't waste your time; do not waste your money; not worth it; not worth the price;
never again; i want my money back; i would not go again; we will not come back; stay away; avoid it; avoid at all costs; one
star; two thumbs down; worse than expected; much worse than the first one; worst in years; one of the worst of the year; the
worst i ever had; i fell asleep; put me to sleep; i walked out after ten minutes; could n't wait for it to end; i kept looking
at my watch; there is nothing good about it; nothing works; it broke after a week; fails on every level; falls flat; does n't
work; it doesn't work at all; goes nowhere; adds up to nothing; runs out of steam; leaves you cold; could have been better;
should have been better; not enough; less than the sum of its parts; too little too late; if only it were good
"""),
}
# Neutral text, which a classifier learns to ignore.
FILLERS = _phrases("""
in the {}; about a {} and a {}; of this {}; by the {} of the {}; as if the {} were a {}; from the {} to the {}; with its {};
that takes us from one {} to another; the {} in question; for a {}; at the {} on a tuesday; like a {} in a {}; who once had a
{}; according to the {}; when it comes to {}; and then there is the {}; set in a {}; between {} and {}; we had ordered the {};
which is about a man and his {}; the second half of the {}; a woman , two children and a {}; some of the {}; most of its {}
""")
