"""Made-up texts for stand-ins of public datasets: a few that a reader would accept, varied when more are asked for."""

from __future__ import annotations

from typing import NamedTuple


class Fact(NamedTuple):
    """Something that can be asked, claimed and looked up."""

    topic: str
    category: str
    title: str
    question: str
    claim: str
    passage: str


FACTS = [
    Fact("astronomy", "astro-ph.EP", "Tides", "why are there two high tides a day",
         "The Moon's pull raises two tidal bulges at once.",
         "The Moon pulls on the near side of the Earth more than on its centre, and on the centre more than on the far "
         "side. Water therefore rises on both sides, and a turning Earth passes two bulges a day."),
    Fact("astronomy", "astro-ph.SR", "Star colours", "what does the colour of a star tell",
         "Blue stars are hotter than red ones.",
         "A star's colour follows its surface temperature: red dwarfs glow at about 3,000 kelvin, the Sun at 5,800, "
         "and blue giants at more than 20,000."),
    Fact("astronomy", "astro-ph.EP", "Saturn's rings", "what are the rings of Saturn made of",
         "Saturn's rings are mostly water ice.",
         "The rings of Saturn consist of countless pieces of water ice, from grains of dust to blocks as large as a "
         "house, each on an orbit of its own."),
    Fact("biology", "q-bio.CB", "Photosynthesis", "how do plants store the energy of light",
         "Plants turn light into sugar by photosynthesis.",
         "In photosynthesis chlorophyll takes up light and the cell uses its energy to build sugar from carbon dioxide "
         "and water; oxygen is left over."),
    Fact("biology", "q-bio.NC", "Sleep and memory", "does sleep help memory",
         "Sleep after learning improves recall.",
         "People who sleep after learning a list of words recall more of it the next day than those who stay awake, "
         "and deep sleep seems to matter most."),
    Fact("biology", "q-bio.PE", "Bird migration", "how do birds find their way when they migrate",
         "Migrating birds use the Earth's magnetic field.",
         "Migrating birds steer by the Sun, by the stars and by the Earth's magnetic field, and they correct one "
         "compass by another at dusk."),
    Fact("computing", "cs.DS", "Binary search", "how fast is binary search",
         "Binary search needs logarithmic time.",
         "Binary search halves a sorted range with every comparison, so a million entries need at most twenty steps."),
    Fact("computing", "cs.CR", "Password hashing", "why are passwords hashed with a salt",
         "A salt makes equal passwords hash differently.",
         "A salt is random text added to each password before hashing. Equal passwords then have different hashes, and "
         "a table of precomputed hashes is of no use."),
    Fact("computing", "cs.LG", "Overfitting", "how can one see that a model overfits",
         "A model overfits when validation loss rises while training loss falls.",
         "A model that overfits keeps improving on its training data while its loss on held-out data stops falling and "
         "then rises; stopping early is the simplest cure."),
    Fact("economics", "econ.GN", "Index funds", "are index funds cheaper than managed funds",
         "Index funds charge lower fees than managed funds.",
         "An index fund buys what its index holds and needs no analysts, so its yearly fee is often below 0.2 percent, "
         "where a managed fund takes one percent or more."),
    Fact("economics", "econ.GN", "Inflation", "what does inflation do to savings",
         "Inflation lowers what savings can buy.",
         "When prices rise by three percent a year, money in an account without interest buys three percent less each "
         "year, so savers need returns above inflation."),
    Fact("economics", "econ.TH", "Auctions", "why do people bid their true value in a second-price auction",
         "Bidding one's true value is optimal in a second-price auction.",
         "The winner of a second-price auction pays the second highest bid. A higher bid than one's value only risks "
         "overpaying and a lower one only risks losing, so the honest bid is best."),
    Fact("history", "physics.hist-ph", "The printing press", "who brought movable type to Europe",
         "Gutenberg introduced movable type to Europe.",
         "Around 1450 Johannes Gutenberg of Mainz cast metal type, set it into pages and printed Bibles with it; "
         "within fifty years presses stood in most large towns of Europe."),
    Fact("history", "physics.hist-ph", "The Rosetta Stone", "how were hieroglyphs deciphered",
         "The Rosetta Stone helped to decipher hieroglyphs.",
         "The Rosetta Stone bears one decree in Greek and in two Egyptian scripts. Comparing the royal names in them, "
         "Champollion read the hieroglyphs in 1822."),
    Fact("medicine", "q-bio.TO", "Aspirin", "does aspirin thin the blood",
         "Aspirin lowers the risk of clots.",
         "Aspirin stops platelets from making thromboxane, so they clump less for as long as they live, about ten "
         "days; a low dose lowers the risk of a second heart attack."),
    Fact("medicine", "q-bio.QM", "Vaccines", "why are vaccines given more than once",
         "A second dose makes immunity last longer.",
         "A first dose makes memory cells, and a later one calls them up again: antibodies rise higher and stay longer "
         "than after one dose alone."),
]  # fmt: skip

CLASSES: dict[str, dict[str, list[str]]] = {
    "stars": {
        "1 star": ["Broke after two days and nobody answers my mails.", "Do not buy this, the seams came apart."],
        "2 stars": ["Works, but much louder than the description says.", "The colour is off and the box was open."],
        "3 stars": ["It is fine for the price, nothing more.", "Does the job, though the manual is useless."],
        "4 stars": ["Good kettle, only the cord could be longer.", "Comfortable shoes, they run a little small."],
        "5 stars": ["Best lamp I ever had, bright and quiet.", "Exactly as described and two days early."],
    },
    "counterfactual": {
        "not-counterfactual": ["The zipper is solid and the pockets are deep.", "It came on a Tuesday, well packed."],
        "counterfactual": ["I wish I had bought the larger one.", "If the strap were softer I would wear it all day."],
    },
    "banking": {
        "card_arrival": ["When will my new card be here?", "I ordered a card a week ago and it has not come."],
        "lost_or_stolen_card": ["My purse is gone and the card was in it.", "Someone took my card, please block it."],
        "exchange_rate": ["Which rate do you use for euros?", "What do I get for a hundred dollars today?"],
        "top_up_failed": ["My top-up did not go through.", "Why was my top-up turned down?"],
    },
    "emotion": {
        "sadness": ["i feel so alone since she moved away", "i keep crying over the letter"],
        "joy": ["i feel wonderful this morning", "i am so happy that we won"],
        "love": ["i feel so fond of my little brother", "i adore the way she laughs"],
        "anger": ["i feel furious about the noise next door", "i am so mad at that driver"],
        "fear": ["i feel scared of the exam tomorrow", "i am afraid of the dark stairs"],
        "surprise": ["i feel amazed that the shop was still open", "i did not expect to see you here"],
    },
    "films": {
        "negative": ["A dull script, wooden acting and an ending that explains nothing.",
                     "Two hours of my life that I will not get back."],
        "positive": ["Warm, funny and beautifully shot; I left the cinema smiling.",
                     "The lead carries every scene, a small masterpiece."],
    },
    "mtop_intent": {
        "CREATE_ALARM": ["set an alarm for six tomorrow morning", "wake me at half past five"],
        "GET_WEATHER": ["will it rain in Leeds tonight", "how warm will it be on Sunday"],
        "SEND_MESSAGE": ["text Anna that I am late", "send a message to Tom saying good luck"],
    },
    "mtop_domain": {
        "alarm": ["set an alarm for six tomorrow morning", "delete all my alarms"],
        "weather": ["will it rain in Leeds tonight", "do I need an umbrella today"],
        "messaging": ["text Anna that I am late", "read me my new messages"],
    },
    "toxic": {
        "not toxic": ["I disagree, but thank you for the link.", "The council meets on Monday, all are welcome."],
        "toxic": ["You are an idiot and should shut up.", "What a pathetic loser this author is."],
    },
    "tweets": {
        "negative": ["my train is late again, great", "lost my keys in the rain"],
        "neutral": ["on my way to work now", "the meeting is at three"],
        "positive": ["best concert ever, thank you all", "so glad the sun is out"],
    },
    "massive_intent": {
        "alarm_set": ["wake me up at five am this week", "set an alarm for noon"],
        "iot_hue_lightoff": ["turn the kitchen lights off", "no light in the bedroom please"],
        "play_music": ["play some jazz", "put on my running list"],
    },
    "massive_scenario": {
        "alarm": ["wake me up at five am this week", "set an alarm for noon"],
        "iot": ["turn the kitchen lights off", "make the hall brighter"],
        "play": ["play some jazz", "put on my running list"],
    },
}  # fmt: skip

STS = [
    ("A man is playing a guitar.", "Someone plays the guitar.", 4.6),
    ("Two dogs run over the snow.", "Two dogs are running through snow.", 5.0),
    ("The council approved the budget on Monday.", "On Monday the budget was passed by the council.", 4.8),
    ("A child is riding a horse.", "A boy rides a bicycle.", 1.8),
    ("The plane landed safely in Oslo.", "A cook slices an onion.", 0.0),
    ("Shares of the bank fell by three percent.", "The bank's shares lost 3 percent.", 4.0),
]

LISTS = [
    ("School uniforms should be compulsory.", "Uniforms cost poor families more than they save, and take from pupils "
     "a harmless way to show who they are.", "Uniforms make pupils equal and spare them the contest of clothes."),
    ("Zoos should be closed.", "Zoos keep species alive that no longer have a wild home, and their breeding "
     "programmes have returned several to nature.", "Animals suffer behind bars and show it by pacing."),
    ("Voting should be a duty by law.", "Whoever is made to vote votes at random; a right that must be used is no "
     "right.", "Where voting is a duty, parliaments look like the people."),
]  # fmt: skip


def varied(text: str, number: int) -> str:
    """A text in its own words at first, told apart by a remark when it comes round again."""
    return text if number == 0 else f"{text} (Noted again in room {number}.)"


def facts(rows: int) -> list[Fact]:
    """So many facts, no two alike."""
    found = []
    for number in range(rows):
        fact, round_ = FACTS[number % len(FACTS)], number // len(FACTS)
        found.append(
            fact._replace(
                title=fact.title if round_ == 0 else f"{fact.title} {round_ + 1}",
                question=fact.question if round_ == 0 else f"{fact.question}, in room {round_}",
                claim=varied(fact.claim, round_),
                passage=varied(fact.passage, round_),
            )
        )
    return found


def labelled(name: str, rows: int) -> list[tuple[str, int, str]]:
    """So many texts of a set of classes: text, number of the class, name of the class; classes take turns."""
    classes = CLASSES[name]
    names = list(classes)
    found = []
    for number in range(rows):
        label, round_ = number % len(names), number // len(names)
        texts = classes[names[label]]
        found.append((varied(texts[round_ % len(texts)], round_ // len(texts)), label, names[label]))
    return found
