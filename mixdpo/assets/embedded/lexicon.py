"""The words of the embedded world: closed classes, open classes by what they say, verb forms and parts of names."""

CLOSED = {
    "DT": "the a this these those every each no some any all another both that",
    "IN": "in on at of for from with about after before by into like than through over under between against during "
    "without until while because although if as since despite around across whether inside behind beneath near",
    "CC": "and but or yet nor",
    "PRP": "I you he she it we they me myself himself itself them him her us",
    "PRP$": "my your its their our his",
    "MD": "will would could should can ca wo might must 'd 'll",
    "EX": "there",
    "TO": "to",
    "POS": "'s",
    "RP": "up out off away back",
    "WP": "who what",
    "WDT": "which",
    "WRB": "when where how why",
    "CD": "one two three four five six seven eight nine ten twelve twenty thirty forty fifty hundred",
    "RB": "not n't never very quite really rather so too just almost only even always often soon once again still "
    "already now then here ever slowly quickly quietly finally suddenly simply mostly nearly perhaps later ago well "
    "together alone home anywhere usually however highly far truly completely utterly surprisingly honestly frankly sadly happily clearly "
    "instead also twice tomorrow yesterday enough maybe overall altogether somehow anyway least",
    "RBR": "more less",
    "RBS": "most",
    "JJR": "longer shorter better worse",
    "JJ": "other same such own whole entire first second last next final first-rate main old young new small big little "
    "long short late early quiet strange secret single real good bad happy sad true right wrong sure first many few "
    "much worth retired lonely rich poor famous local human certain ready afraid glad free high low rainy cold hot dark "
    "open empty able dead pregnant missing different familiar middle opening closing latest simple alive "
    "single modern tired hungry red black grateful full asleep serious unknown hard rare strangest violent complicated safe wide",
    "NN": "time end heart mind way thing point sense use kind lot bit bus train plane car road street sea river house "
    "room garden church school hotel farm island bridge door window kitchen hospital prison office bar shop library "
    "airport beach forest town city village country world war peace money work life death love hate hope fear truth "
    "lie luck trouble silence snow rain night day morning evening afternoon week month year summer winter spring "
    "autumn weekend Sunday Christmas hour minute everything nothing something anything everyone nobody someone "
    "somebody anyone family mother father sister brother daughter son wife husband child friend neighbor stranger boss "
    "partner cousin uncle aunt woman man boy girl wedding funeral trial murder fire storm accident divorce illness job "
    "past future memory dream promise mistake choice chance deal debt price revenge justice power honor freedom guilt "
    "grief faith doubt courage kindness story plot tale book novel film movie page chapter scene screen camera title "
    "review rating star idea attention patience sleep popcorn seat ticket theater sofa bed coffee tea copy cover shelf "
    "chair nap watch word line sentence director author writer actor actress cast hero heroine character main lead "
    "crew studio publisher prize award festival audience reader viewer fan critic half third part middle section start "
    "beginning final finish minute rest side hand eye face voice smile body gun knife phone key dog cat horse boat ship "
    "box bag map ring picture photograph painting song violin piano recipe case police crime drama comedy romance "
    "history action suspense tension emotion humor laughter credit reason problem trick surprise question answer gift "
    "letter diary bank farewell sequel subplot message lesson debut version trilogy series subject matter store theme rumor floor name escape help blame paper dollar trail journey midnight turn opinion performance stop memory interest vote enemy try fame score feeling figure look castle",
    "NNS": "stories memories people children",
    "UH": "oh yes no well",
    "``": "“",
    "''": "”",
    "HYPH": "-",
    ",": ",",
    ":": "; : — ...",
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
    "book.make": ("VB", "write craft write"),
    "genre": ("NN", "thriller mystery comedy romance western drama satire fable"),
    "job": (
        "NN",
        "nurse teacher doctor lawyer farmer soldier sailor priest painter thief baker detective reporter "
        "surgeon pianist gardener banker spy student clerk judge carpenter",
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
        "good great fine superb excellent wonderful terrific brilliant lovely delightful impressive fantastic "
        "remarkable splendid beautiful",
        "bad poor weak awful terrible dreadful dull flat lazy clumsy boring mediocre lifeless horrible tedious",
    ),
    "mood": (
        "JJ",
        "funny moving honest clever fresh charming touching smart warm gripping rich original tense elegant thoughtful",
        "silly shallow predictable confused forced stale empty pointless slow messy cold hollow "
        "annoying ridiculous tiresome",
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
    "worth": ("NN", "praise awards attention applause love", "contempt scorn ridicule neglect"),
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
OF_THE_WHOLE = set("ending story plot premise romance twist research translation epilogue direction".split())

PRESENT = {
    "be": {"first": "am", "singular": "is", "plural": "are"},
    "'be": {"first": "'m", "singular": "'s", "plural": "'re"},
    "have": {"first": "have", "singular": "has", "plural": "have"},
    "'have": {"first": "'ve", "singular": "'s", "plural": "'ve"},
}
# The past tense and the past participle.
IRREGULAR = {
    lemma: tuple(forms.split())
    for lemma, forms in {
        "be": "was been",
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
        "get": "got gotten",
        "come": "came come",
        "become": "became become",
        "begin": "began begun",
        "fall": "fell fallen",
        "hear": "heard heard",
        "know": "knew known",
        "keep": "kept kept",
        "buy": "bought bought",
        "bring": "brought brought",
        "feel": "felt felt",
        "think": "thought thought",
        "say": "said said",
        "send": "sent sent",
        "steal": "stole stolen",
        "hide": "hid hidden",
        "set": "set set",
        "let": "let let",
        "win": "won won",
        "run": "ran run",
        "meet": "met met",
        "catch": "caught caught",
        "grow": "grew grown",
        "spend": "spent spent",
        "sleep": "slept slept",
        "draw": "drew drawn",
        "build": "built built",
        "hold": "held held",
        "drive": "drove driven",
        "break": "broke broken",
        "stand": "stood stood",
        "forget": "forgot forgotten",
        "show": "showed shown",
        "sink": "sank sunk",
        "fight": "fought fought",
        "choose": "chose chosen",
        "pay": "paid paid",
        "put": "put put",
        "sit": "sat sat",
        "lend": "lent lent",
        "cut": "cut cut",
        "stick": "stuck stuck",
        "understand": "understood understood",
        "hurt": "hurt hurt",
        "wake": "woke woken",
        "sell": "sold sold",
    }.items()
}
DOUBLING = set("stop plan drag begin forget get run sit win grip set let cut put regret".split())

MALE_NAMES = (
    "Tom James Daniel Peter Victor Martin Oscar Henry Samuel Paul Leon Arthur Felix Hugo Walter Simon Adam Frank George "
    "Isaac Jonas Karl Louis Max Nathan Owen Philip Ralph Theo Luke"
).split()
FEMALE_NAMES = (
    "Anna Clara Ruth Helen Nora Alice Vera Laura Irene Martha Julia Grace Ellen Marie Sofia Judith Esther Lena Diane Kate "
    "Lucy Rose Sarah Emma Hannah Elena Jane Maud Paula Greta"
).split()
SURNAME_STARTS = (
    "Mar Hol Var Bran Win Har Cal Pen Ash Mor Whit Lang Dray Tor Kel Ros Fen Gar Hart Lin Bel Car Dun El Gren Hal Kir "
    "Lor Nor Sel"
).split()
SURNAME_ENDS = (
    "low den ford ley man ton wick ham son ridge well more land by worth ner vale combe sey ling stead nell rick mond"
).split()
REAL_PLACES = (
    "London Paris Berlin Rome Dublin Boston Chicago Texas Ohio Spain Italy France Ireland Scotland Canada Mexico Vienna "
    "Prague Lisbon Seattle Denver Brooklyn Venice Tokyo Cairo"
).split()
PLACE_STARTS = "Marrow Amber Cold Stone Raven Silver Black Long Willow Salt Iron Fox Elm Gray Crow".split()
PLACE_ENDS = "Bay Hollow Creek Ridge Falls Harbor Point Springs".split()
COMPANY_ENDS = {"movie": "Pictures Films Studios".split(), "book": "Press Books House".split()}
TITLE_MODIFIERS = (
    "Glass Silent Last Paper Crimson Broken Hidden Winter Burning Golden Empty Distant Hollow Northern Secret Velvet Iron "
    "Midnight Wooden Blue Second Lost Painted Patient Drowned Wild"
).split()
TITLE_NOUNS = (
    "Orchard Bridge Garden Letter River Harbor Mirror Clock Lantern Train Island Daughter Stranger Promise Summer Tower "
    "Witness Sparrow Road House Voyage Song Door Kingdom Fire Shore"
).split()
TITLE_STARTS = {"Return": "to", "Journey": "to", "Letters": "from", "Road": "to", "Farewell": "to"}


def _tag_of() -> dict[str, str]:
    tags: dict[str, str] = {}
    for tag, words in [
        *CLOSED.items(),
        *CLASSES.values(),
        *((tag, f"{liked} {disliked}") for tag, liked, disliked in OPINIONS.values()),
        *(("JJ", f"{liked} {disliked}") for rows in ASPECTS.values() for noun, liked, disliked in rows),
        *(("NNS" if is_plural(noun) else "NN", noun) for rows in ASPECTS.values() for noun, _, _ in rows),
    ]:
        for word in words.split():
            tags.setdefault(word, tag)
    tags |= {noun + "s": "NNS" for noun, tag in list(tags.items()) if tag == "NN" and noun + "s" not in tags}
    return tags


def is_plural(noun: str) -> bool:
    """Whether a noun that a review judges is plural."""
    return noun.endswith("s")


TAG_OF = _tag_of()
