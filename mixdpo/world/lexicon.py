"""The words of the embedded world: closed classes, open classes by what they say, verb forms and parts of names."""


def words(text: str) -> list[str]:
    """The words of a line."""
    return text.split()


CLOSED = {
    "DT": "the a this every no some any another",
    "IN": "on at if",
    "CC": "and but",
    "PRP": "I you it me",
    "PRP$": "my your its",
    "MD": "will would could should can ca wo might must",
    "EX": "there",
    "TO": "to",
    "RP": "up out away back",
    "WP": "who",
    "WRB": "when where how why",
    "CD": "one two three four five ten twelve twenty forty fifty",
    "RB": (
        "not n't never very so too only even always soon again still now here ever finally nearly later ago "
        "well together alone home usually however highly twice"
    ),
    "RBR": "more",
    "JJS": "most strangest",
    "JJ": (
        "other same whole first second last next final main new small little quiet strange real true wrong "
        "sure many few much high low rainy dead opening latest alive full asleep hard rare violent "
        "complicated safe wide"
    ),
    "NN": (
        "time end way thing point kind lot bus train plane car sea river house room garden church school "
        "hotel farm bridge door kitchen hospital prison shop library beach country world money work life "
        "death truth silence snow night day evening week month year weekend Christmas hour minute everything "
        "nothing something anything everyone nobody someone anyone job past dream choice chance debt price "
        "story plot camera rating star seat bed copy watch word actor cast hero heroine character lead prize "
        "award festival audience fan half part start rest side face voice dog boat piano case surprise "
        "question answer bank farewell sequel message lesson subject theme rumor floor name escape help blame "
        "paper trail journey midnight turn opinion performance stop interest vote enemy try fame score ghost "
        "secret original capital feeling figure look castle"
    ),
    "NNS": "stories memories people children",
    ",": ",",
    ":": ":",
}

# Open classes; a name in front of a dot belongs to one domain.
CLASSES = {
    "movie.work_noun": ("NN", "film movie film movie picture"),
    "book.work_noun": ("NN", "novel book novel book"),
    "movie.works": ("NNS", "films movies films movies pictures"),
    "book.works": ("NNS", "novels books"),
    "movie.part": ("NN", "scene sequence shot"),
    "book.part": ("NN", "chapter page paragraph"),
    "movie.parts": ("NNS", "scenes shots sequences"),
    "book.parts": ("NNS", "chapters pages paragraphs"),
    "movie.public": ("NNS", "viewers audiences"),
    "book.public": ("NNS", "readers"),
    "movie.maker_noun": ("NN", "director filmmaker director"),
    "book.maker_noun": ("NN", "author writer novelist"),
    "movie.take": ("VB", "watch see"),
    "book.take": ("VB", "read"),
    "movie.make": ("VB", "direct shoot film"),
    "book.make": ("VB", "write"),
    "genre": ("NN", "thriller mystery comedy romance western drama satire fable"),
    "job": (
        "NN",
        (
            "nurse teacher doctor lawyer farmer soldier sailor priest painter thief baker detective reporter "
            "surgeon pianist gardener banker spy student clerk judge carpenter"
        ),
    ),
    "companion": ("NN", "neighbor stranger rival cousin partner smuggler landlord professor captain sheriff drifter"),
    "trait": ("JJ", "lonely retired young stubborn shy ambitious bitter proud tired nervous clever grieving reckless"),
    "relative": ("NN", "mother father sister brother daughter son uncle aunt cousin"),
    "town_kind": ("NN", "town village city valley"),
    "find": ("NN", "letter diary body map photograph painting gun key suitcase phone ring coin"),
    "event": ("NN", "murder wedding funeral fire storm trial accident robbery war strike flood"),
    "disaster": ("NN", "murder fire storm war strike flood trial"),
    "crime": ("NN", "murder fire robbery accident theft"),
    "value": ("NN", "love grief guilt friendship loyalty revenge memory family faith freedom justice loss hope power"),
    "season": ("NN", "summer winter spring autumn"),
    "month": ("NNP", "January February March April May June July August September October November December"),
    "giver": (
        "NN",
        "sister brother wife husband neighbor friend mother father daughter son boss cousin roommate teacher",
    ),
    "degree": ("RB", "really quite truly simply surprisingly"),
    "pause": ("RB", "honestly frankly overall surprisingly"),
    "look": ("NN", "title idea premise cover"),
}

# Opinion words as (tag, liked, disliked); a verb stands by its lemma.
OPINIONS = {
    "adj": (
        "JJ",
        (
            "good great fine superb excellent wonderful terrific brilliant lovely delightful impressive fantastic "
            "remarkable splendid beautiful"
        ),
        "bad poor weak awful terrible dreadful dull flat lazy clumsy boring mediocre lifeless horrible tedious",
    ),
    "mood": (
        "JJ",
        "funny moving honest clever fresh charming touching smart warm gripping rich original tense elegant thoughtful",
        (
            "silly shallow predictable confused forced stale empty pointless slow messy cold hollow "
            "annoying ridiculous tiresome"
        ),
    ),
    "able": (
        "JJ",
        "convincing marvelous memorable excellent charming subtle magnetic perfect natural brilliant",
        "wooden hopeless miscast forgettable stiff irritating unconvincing lost bored terrible",
    ),
    "best": ("JJS", "best finest greatest", "worst weakest dullest"),
    "better": ("JJR", "better funnier smarter stronger richer", "worse duller weaker sillier poorer"),
    "well": ("RB", "beautifully perfectly brilliantly wonderfully superbly", "badly poorly clumsily terribly horribly"),
    "gem": (
        "NN",
        "triumph delight joy gem treat masterpiece success pleasure marvel wonder",
        "mess bore failure disaster disappointment chore insult waste flop nightmare",
    ),
    "virtue": (
        "NN",
        "charm wit warmth skill energy imagination beauty tension heart humor",
        "padding nonsense boredom confusion noise silliness sentiment clumsiness laziness repetition",
    ),
    "virtues": (
        "NNS",
        "surprises laughs delights pleasures thrills jokes ideas",
        "mistakes cliches problems flaws holes errors lapses",
    ),
    "love": ("VB", "love enjoy admire adore like", "hate dislike resent loathe detest"),
    "shine": ("VB", "work shine succeed soar deliver", "drag fail collapse disappoint stumble"),
    "grip": ("VB", "charm move delight amuse thrill impress", "bore annoy irritate confuse disappoint"),
    "react": ("VB", "laugh smile cry cheer clap", "yawn groan sigh sleep doze"),
    "happily": ("RB", "happily gladly eagerly", "barely grudgingly hardly"),
    "glad": ("JJ", "glad happy grateful delighted", "sorry angry sad annoyed"),
    "worth": ("NN", "praise respect attention applause love", "contempt scorn ridicule neglect"),
    "lift": ("VB", "save lift enrich brighten", "ruin spoil sink wreck"),
}

# What a review judges as (nouns, liked, disliked).
ASPECTS = {
    "movie": [
        ("acting", "convincing superb subtle natural", "wooden stiff poor lazy"),
        ("performances", "strong subtle moving brilliant", "flat wooden weak forced"),
        ("cast", "wonderful charming perfect strong", "wasted lost weak bored"),
        ("script", "witty sharp clever tight", "lazy clumsy thin stupid"),
        ("music", "haunting lovely beautiful stirring", "loud dreary intrusive awful"),
        ("photography", "gorgeous stunning elegant beautiful", "murky ugly dim drab"),
        ("direction", "assured elegant confident sharp", "clumsy timid flat lazy"),
        ("costumes", "gorgeous perfect lovely rich", "cheap ugly silly drab"),
        ("editing", "crisp sharp tight clever", "choppy sloppy jumpy clumsy"),
        ("effects", "stunning impressive clever beautiful", "cheap fake ugly laughable"),
    ],
    "book": [
        ("prose", "elegant lyrical clear beautiful", "purple clumsy stiff lifeless"),
        ("writing", "sharp graceful witty superb", "lazy clumsy dull sloppy"),
        ("chapters", "short gripping tight lively", "long repetitive dull uneven"),
        ("descriptions", "vivid rich precise lovely", "endless vague dull tiresome"),
        ("narrator", "funny honest charming wise", "smug tiresome annoying dull"),
        ("style", "simple elegant graceful fresh", "pompous dry wordy stiff"),
        ("research", "impressive solid thorough rich", "thin sloppy weak lazy"),
        ("translation", "smooth graceful excellent clear", "awkward clumsy stiff poor"),
        ("sentences", "crisp graceful musical clear", "clumsy endless ugly flat"),
        ("epilogue", "perfect moving lovely wise", "pointless silly forced dull"),
    ],
    "": [
        ("ending", "moving satisfying brave perfect", "rushed silly abrupt weak"),
        ("story", "gripping clever moving original", "thin predictable confused dull"),
        ("plot", "clever tight original gripping", "thin silly predictable messy"),
        ("dialogue", "sharp witty natural funny", "stiff wooden clumsy flat"),
        ("pacing", "brisk steady perfect confident", "slow uneven sluggish terrible"),
        ("characters", "believable vivid warm complex", "flat thin dull irritating"),
        ("jokes", "fresh clever hilarious sharp", "stale crude tired stupid"),
        ("atmosphere", "haunting tense rich magical", "flat fake drab lifeless"),
        ("premise", "fresh clever bold original", "silly stale absurd weak"),
        ("romance", "sweet tender touching believable", "fake forced tiresome cold"),
        ("twist", "clever shocking brilliant earned", "obvious cheap silly pointless"),
        ("villain", "chilling clever scary memorable", "dull laughable weak silly"),
        ("mood", "tense warm dreamy gentle", "gloomy dreary cold flat"),
    ],
}

# What only a whole work has, so no single scene or chapter.
OF_THE_WHOLE = set(words("ending story plot premise romance twist research translation epilogue direction"))

PRESENT = {
    "be": {"first": "am", "singular": "is", "plural": "are"},
    "'be": {"first": "'m", "singular": "'s", "plural": "'re"},
    "have": {"first": "have", "singular": "has", "plural": "have"},
    "'have": {"first": "'ve", "singular": "'s", "plural": "'ve"},
}
# The past tense and the past participle.
IRREGULAR = {
    lemma: tuple(words(forms))
    for lemma, forms in {
        "have": "had had",
        "do": "did done",
        "go": "went gone",
        "see": "saw seen",
        "read": "read read",
        "write": "wrote written",
        "shoot": "shot shot",
        "find": "found found",
        "lose": "lost lost",
        "leave": "left left",
        "tell": "told told",
        "make": "made made",
        "take": "took taken",
        "give": "gave given",
        "come": "came come",
        "begin": "began begun",
        "fall": "fell fallen",
        "hear": "heard heard",
        "buy": "bought bought",
        "feel": "felt felt",
        "think": "thought thought",
        "send": "sent sent",
        "set": "set set",
        "quit": "quit quit",
        "win": "won won",
        "meet": "met met",
        "grow": "grew grown",
        "sleep": "slept slept",
        "build": "built built",
        "forget": "forgot forgotten",
        "choose": "chose chosen",
        "cut": "cut cut",
        "hurt": "hurt hurt",
        "sell": "sold sold",
    }.items()
}
DOUBLING = set(words("skip clap plan"))

MALE_NAMES = words(
    "Tom James Daniel Peter Victor Martin Oscar Henry Samuel Paul Leon Arthur Felix Hugo Walter Simon Adam Frank "
    "George Isaac Jonas Karl Louis Max Nathan Owen Philip Ralph Theo Luke"
)
FEMALE_NAMES = words(
    "Anna Clara Ruth Helen Nora Alice Vera Laura Irene Martha Julia Grace Ellen Marie Sofia Judith Esther Lena "
    "Diane Kate Lucy Rose Sarah Emma Hannah Elena Jane Maud Paula Greta"
)
SURNAME_STARTS = words(
    "Mar Hol Var Bran Win Har Cal Pen Ash Mor Whit Lang Dray Tor Kel Ros Fen Gar Hart Lin Bel Car Dun El Gren Hal Kir "
    "Lor Nor Sel"
)
SURNAME_ENDS = words(
    "low den ford ley man ton wick ham son ridge well more land by worth ner vale combe sey ling stead nell rick mond"
)
REAL_PLACES = words(
    "London Paris Berlin Rome Dublin Boston Chicago Texas Ohio Spain Italy France Ireland Scotland Canada Mexico "
    "Vienna Prague Lisbon Seattle Denver Brooklyn Venice Tokyo Cairo"
)
PLACE_STARTS = words("Marrow Amber Cold Stone Raven Silver Black Long Willow Salt Iron Fox Elm Gray Crow")
PLACE_ENDS = words("Bay Hollow Creek Ridge Falls Harbor Point Springs")
COMPANY_ENDS = {"movie": words("Pictures Films Studios"), "book": words("Press Books House")}
TITLE_MODIFIERS = words(
    "Glass Silent Last Paper Crimson Broken Hidden Winter Burning Golden Empty Distant Hollow Northern Secret "
    "Velvet Iron Midnight Wooden Blue Second Lost Painted Patient Drowned Wild"
)
TITLE_NOUNS = words(
    "Orchard Bridge Garden Letter River Harbor Mirror Clock Lantern Train Island Daughter Stranger Promise Summer "
    "Tower Witness Sparrow Road House Voyage Song Door Kingdom Fire Shore"
)
TITLE_STARTS = {"Return": "to", "Journey": "to", "Letters": "from", "Road": "to", "Farewell": "to"}


def _tag_of() -> dict[str, str]:
    tags: dict[str, str] = {}
    for tag, line in [
        *CLOSED.items(),
        *CLASSES.values(),
        *((tag, f"{liked} {disliked}") for tag, liked, disliked in OPINIONS.values()),
        *(("JJ", f"{liked} {disliked}") for rows in ASPECTS.values() for noun, liked, disliked in rows),
        *(("NNS" if is_plural(noun) else "NN", noun) for rows in ASPECTS.values() for noun, _, _ in rows),
    ]:
        for word in words(line):
            tags.setdefault(word, tag)
    tags |= {noun + "s": "NNS" for noun, tag in list(tags.items()) if tag == "NN" and noun + "s" not in tags}
    return tags


def is_plural(noun: str) -> bool:
    """Whether a noun that a review judges is plural."""
    return noun.endswith("s")


TAG_OF = _tag_of()
