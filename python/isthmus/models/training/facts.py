"""The tables of facts that the built-in model is taught: plain data, no behaviour.

Each pair reads (what is asked, what is true). Long texts live in `passages.py`. Nothing here
knows how a question is phrased; `questions.py` does that.
"""

from __future__ import annotations

Pairs = tuple[tuple[str, str], ...]


def _pairs(table: str) -> Pairs:
    """Read `asked: true; asked: true` into pairs, so that tables stay easy to scan."""
    entries = (entry.split(":") for entry in table.split(";") if entry.strip())
    return tuple((" ".join(asked.split()), " ".join(true.split())) for asked, true in entries)


def _words(table: str) -> tuple[str, ...]:
    return tuple(table.split())


DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _words(
    "January February March April May June July August September October November December"
)
SMALL_NUMBERS = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)
TENS = _words("twenty thirty forty fifty sixty seventy eighty ninety")

CAPITALS = _pairs("""
France: Paris; Germany: Berlin; Italy: Rome; Spain: Madrid; Portugal: Lisbon; Japan: Tokyo;
China: Beijing; India: New Delhi; Russia: Moscow; Greece: Athens; Egypt: Cairo; Kenya: Nairobi;
Norway: Oslo; Sweden: Stockholm; Finland: Helsinki; Denmark: Copenhagen; Poland: Warsaw;
Austria: Vienna; Hungary: Budapest; Ireland: Dublin; England: London; Scotland: Edinburgh;
Belgium: Brussels; Switzerland: Bern; Turkey: Ankara; Canada: Ottawa; Mexico: Mexico City;
Brazil: Brasilia; Argentina: Buenos Aires; Chile: Santiago; Peru: Lima; Cuba: Havana;
Australia: Canberra; New Zealand: Wellington; South Korea: Seoul; Thailand: Bangkok;
Vietnam: Hanoi; Iran: Tehran; Iraq: Baghdad; Morocco: Rabat; Iceland: Reykjavik;
Ukraine: Kyiv; Romania: Bucharest; Bulgaria: Sofia; Croatia: Zagreb; Serbia: Belgrade;
Nepal: Kathmandu; Mongolia: Ulaanbaatar
""")

OPPOSITES = _pairs("""
hot: cold; big: small; tall: short; fast: slow; happy: sad; light: dark; old: young;
new: old; rich: poor; hard: soft; full: empty; open: closed; early: late; loud: quiet;
strong: weak; heavy: light; wet: dry; clean: dirty; high: low; deep: shallow; wide: narrow;
thick: thin; good: bad; right: wrong; true: false; up: down; left: right; in: out;
day: night; summer: winter; love: hate; friend: enemy; begin: end; buy: sell; give: take;
push: pull; win: lose; laugh: cry; brave: afraid; sweet: sour; sharp: blunt; safe: dangerous;
near: far; first: last; always: never; before: after; inside: outside; alive: dead;
awake: asleep; smooth: rough
""")

PLURALS = _pairs("""
cat: cats; dog: dogs; book: books; tree: trees; car: cars; house: houses; bird: birds;
apple: apples; table: tables; chair: chairs; river: rivers; road: roads; child: children;
man: men; woman: women; foot: feet; tooth: teeth; goose: geese; mouse: mice; person: people;
ox: oxen; sheep: sheep; fish: fish; deer: deer; box: boxes; bus: buses; dish: dishes;
glass: glasses; watch: watches; church: churches; fox: foxes; brush: brushes; city: cities;
baby: babies; lady: ladies; story: stories; berry: berries; country: countries; knife: knives;
leaf: leaves; wolf: wolves; life: lives; half: halves; shelf: shelves; potato: potatoes;
tomato: tomatoes; hero: heroes; key: keys; day: days; toy: toys; star: stars; window: windows
""")

COLOURS = _pairs("""
grass: green; snow: white; coal: black; a lemon: yellow; a banana: yellow; blood: red;
the sky: blue; a carrot: orange; a tomato: red; milk: white; chocolate: brown; an elephant: grey;
a flamingo: pink; a plum: purple; a crow: black; a leaf: green; the sea: blue; sand: yellow;
a strawberry: red; a frog: green; salt: white; gold: yellow; silver: grey; an orange: orange;
a pumpkin: orange; a cucumber: green; a cloud: white; a bear: brown; a swan: white; a ruby: red
""")

CATEGORIES = _pairs("""
a rose: a flower; a tulip: a flower; a daisy: a flower; an oak: a tree; a pine: a tree;
a birch: a tree; an apple: a fruit; a pear: a fruit; a cherry: a fruit; a carrot: a vegetable;
an onion: a vegetable; a cabbage: a vegetable; a robin: a bird; an eagle: a bird; an owl: a bird;
a salmon: a fish; a trout: a fish; a shark: a fish; an ant: an insect; a bee: an insect;
a beetle: an insect; a piano: an instrument; a violin: an instrument; a drum: an instrument;
a hammer: a tool; a saw: a tool; iron: a metal; copper: a metal; gold: a metal; red: a colour;
blue: a colour; chess: a game; football: a game; bread: a food; cheese: a food; tea: a drink;
coffee: a drink; a horse: an animal; a cow: an animal; a lion: an animal
""")

MEMBERS = _pairs("""
colours: red, green and blue; fruits: an apple, a pear and a plum;
animals: a dog, a horse and a cow; birds: a robin, an eagle and an owl;
trees: an oak, a pine and a birch; metals: iron, copper and gold;
tools: a hammer, a saw and a spade; flowers: a rose, a tulip and a daisy;
drinks: water, tea and milk; vegetables: a carrot, an onion and a cabbage;
planets: Mars, Venus and Jupiter; instruments: a piano, a violin and a drum
""")

# (many, one, how many of the first make one of the second)
UNITS: tuple[tuple[str, str, int], ...] = (
    ("seconds", "minute", 60),
    ("minutes", "hour", 60),
    ("hours", "day", 24),
    ("days", "week", 7),
    ("months", "year", 12),
    ("centimetres", "metre", 100),
    ("metres", "kilometre", 1000),
    ("grams", "kilogram", 1000),
    ("millimetres", "centimetre", 10),
    ("eggs", "dozen", 12),
)

NAMES = _words("""
Ada Ben Clara David Emma Felix Grace Henry Iris Jack Kate Leo Mary Noah Olga Paul Rosa Sam Tina
Victor Wendy Alan Betty Carl Diana Eric Fiona George Helen Ivan Julia Kevin Laura Max Nina Oscar
Peter Ruth Simon Tom Anna Bruno Cora Dora Edgar Flora Hugo Ines Jonas Karl Lena Mark Nora Otto
""")
FAVOURITE_COLOURS = _words("red green blue yellow orange purple pink black white brown grey gold")
PETS = _words("cat dog rabbit parrot horse hamster turtle goldfish pony canary")
CITIES = _words("Paris Rome London Berlin Madrid Vienna Oslo Lisbon Athens Dublin Prague Milan")

WORDS = _words("""
cat dog sun moon star tree leaf rock sand wind rain snow ice fire lamp door wall roof road path
bird fish frog wolf bear lion deer goat duck hen fox bee ant owl bat pig cow horse sheep mouse
apple pear plum lemon bread milk tea salt rice soup cake honey butter sugar grape melon cherry
red blue green black white brown pink gold grey dark light warm cold soft hard tall small big
house garden kitchen window table chair bed clock book pen paper letter story song music dance
river lake sea ocean island beach hill mountain forest field desert valley cloud storm thunder
king queen prince baker farmer doctor teacher sailor painter writer singer friend mother father
brother sister child baby uncle hand foot head nose mouth eye ear hair heart back arm finger
train plane ship boat car bus wheel engine bridge street market village city country world
morning evening night winter summer spring autumn monday minute hour week month year time
happy sad brave quiet loud quick slow bright clean empty full young old new rich poor kind
run walk jump swim fly sing read write draw play sleep dream think speak listen watch build
silver copper iron stone wood glass cotton silk wool rope chain needle button pocket basket
orange yellow purple silent gentle simple little magic planet rocket castle dragon candle
ladder hammer pencil rabbit tiger monkey parrot turtle spider beetle flower rose tulip daisy
ball kite drum flute piano violin box bag cup plate spoon fork knife bowl shirt shoe hat coat
water air earth smoke shadow mirror picture number answer question reason secret letter travel
""")
