"""The longer texts that the built-in model is taught: descriptions, stories and small talk.

Plain data: one fixed text per topic, so that an answer can be checked word for word.
"""

from __future__ import annotations

# (topic as it is asked for, its description)
DESCRIPTIONS: tuple[tuple[str, str], ...] = (
    (
        "the sea",
        "The sea is a wide body of salt water. It covers most of the Earth and is full of "
        "life. Waves roll over it when the wind blows.",
    ),
    (
        "rain",
        "Rain forms when water in the air cools and turns into small drops. The drops join in "
        "the clouds and grow heavy. Then they fall to the ground.",
    ),
    (
        "a computer",
        "A computer is a machine that follows instructions. It can store numbers, "
        "words and pictures. People use it to work, to learn and to play.",
    ),
    (
        "the sun",
        "The sun is a star in the middle of our solar system. It is very hot and gives us "
        "light and warmth. Without it there would be no life on Earth.",
    ),
    (
        "the moon",
        "The moon goes around the Earth once a month. It has no light of its own but "
        "shines in the light of the sun. People walked on it in 1969.",
    ),
    (
        "a tree",
        "A tree is a tall plant with a trunk and branches. Its leaves catch the light of "
        "the sun. Its roots take water from the soil.",
    ),
    (
        "a river",
        "A river is a stream of fresh water. It begins in the hills and flows down to the "
        "sea. Many towns stand on the banks of a river.",
    ),
    (
        "a mountain",
        "A mountain is land that rises high above the country around it. The air at "
        "the top is thin and cold. Many mountains are covered with snow.",
    ),
    (
        "snow",
        "Snow is made of small crystals of ice. It falls from the clouds when the air is "
        "cold. It covers the fields like a white blanket.",
    ),
    (
        "wind",
        "Wind is air that moves. It blows from places with high pressure to places with low "
        "pressure. It can turn mills and drive ships.",
    ),
    (
        "a cloud",
        "A cloud is made of many small drops of water. It floats in the air because the "
        "drops are very light. Dark clouds often bring rain.",
    ),
    (
        "a forest",
        "A forest is a large place with many trees. Birds, deer and foxes live in it. "
        "The air there is cool and clean.",
    ),
    (
        "a desert",
        "A desert is a dry place where it seldom rains. The days are hot and the nights "
        "are cold. Few plants and animals can live there.",
    ),
    (
        "a cat",
        "A cat is a small animal with soft fur. It hunts mice and likes to sleep in warm "
        "places. Many people keep a cat at home.",
    ),
    (
        "a dog",
        "A dog is an animal that has lived with people for a long time. It can guard a "
        "house and herd sheep. A dog is a loyal friend.",
    ),
    (
        "a horse",
        "A horse is a large and strong animal. It can run fast and carry a rider. People "
        "used horses for work before there were cars.",
    ),
    (
        "a bird",
        "A bird is an animal with wings and feathers. Most birds can fly and build nests. "
        "Their young come out of eggs.",
    ),
    (
        "a fish",
        "A fish is an animal that lives in water. It breathes through gills and swims with "
        "its fins. Some fish live in the sea and some in rivers.",
    ),
    (
        "a bee",
        "A bee is a small insect that flies from flower to flower. It gathers nectar and "
        "makes honey. Bees help many plants to grow fruit.",
    ),
    (
        "a book",
        "A book is a set of pages with words or pictures. People read books to learn and to "
        "enjoy a story. A library keeps many books.",
    ),
    (
        "music",
        "Music is the art of sound. It is made with voices and instruments. It can make "
        "people happy, sad or calm.",
    ),
    (
        "a library",
        "A library is a place that keeps many books. People go there to read and to "
        "learn. They may take a book home for a few weeks.",
    ),
    (
        "a school",
        "A school is a place where children learn. Teachers show them how to read, write "
        "and count. They also play with their friends there.",
    ),
    (
        "a city",
        "A city is a large place where many people live. It has streets, shops and tall "
        "buildings. Buses and trains carry people to work.",
    ),
    (
        "a farm",
        "A farm is a place where food is grown. The farmer plants crops and keeps animals. "
        "Milk, eggs and grain come from farms.",
    ),
    (
        "a garden",
        "A garden is a piece of land where flowers and vegetables grow. It needs water, "
        "light and care. Many people rest in their garden.",
    ),
    (
        "a bridge",
        "A bridge carries a road over a river or a valley. It can be made of wood, stone "
        "or steel. A good bridge lasts for many years.",
    ),
    (
        "a clock",
        "A clock shows the time of day. It has a short hand for hours and a long hand for "
        "minutes. Some clocks ring a bell.",
    ),
    (
        "a train",
        "A train runs on rails of steel. An engine pulls many cars behind it. Trains carry "
        "people and goods over long distances.",
    ),
    (
        "a ship",
        "A ship is a large boat that crosses the sea. It carries people and goods from "
        "port to port. Long ago ships were driven by the wind.",
    ),
    (
        "bread",
        "Bread is a food made of flour, water and salt. The baker lets the dough rise and "
        "then bakes it. People in many countries eat bread every day.",
    ),
    (
        "water",
        "Water is a clear liquid that all living things need. It freezes into ice when it is "
        "cold. It turns into steam when it boils.",
    ),
    (
        "fire",
        "Fire gives light and heat. It needs fuel and air to burn. People use fire to cook "
        "and to keep warm.",
    ),
    (
        "gravity",
        "Gravity is a force that pulls things together. It keeps our feet on the ground. "
        "It also keeps the moon on its path around the Earth.",
    ),
    (
        "a star",
        "A star is a huge ball of hot gas. It shines because it is very hot inside. The sun "
        "is the star that is nearest to us.",
    ),
    (
        "a planet",
        "A planet is a large ball of rock or gas that goes around a star. The Earth is a "
        "planet. Eight planets go around our sun.",
    ),
    (
        "winter",
        "Winter is the coldest season of the year. The days are short and the nights are "
        "long. In many places it snows.",
    ),
    (
        "summer",
        "Summer is the warmest season of the year. The days are long and bright. Fruit "
        "grows ripe and people go to the beach.",
    ),
    (
        "a friend",
        "A friend is a person whom you like and trust. Friends help each other and laugh "
        "together. A good friend listens to you.",
    ),
    (
        "a language model",
        "A language model is a program that guesses the next word of a text. It "
        "learns from many examples. I am a very small language model.",
    ),
)

# (animal, home, what it finds, what happens in the end)
STORY_ANIMALS: tuple[tuple[str, str, str, str], ...] = (
    ("fox", "in a quiet forest", "a golden key", "opened a small green door behind the old oak"),
    ("bear", "in the high mountains", "a jar of honey", "shared it with everyone by the river"),
    ("mouse", "under a baker's shop", "a warm loaf of bread", "asked all the mice to supper"),
    ("rabbit", "on a green hill", "a red balloon", "flew over the fields until the sun went down"),
    ("owl", "in the tower of a castle", "an old book", "read a story to the stars every night"),
    ("duck", "beside a blue lake", "a little wooden boat", "sailed all the way to the sea"),
    ("cat", "in a house by the harbour", "a silver bell", "rang it to guide the ships home"),
    ("dog", "on a farm", "a lost lamb", "brought it back to the happy farmer"),
    ("horse", "in a wide valley", "a path of white stones", "followed it to a field of flowers"),
    ("bee", "in a garden of roses", "a tiny lamp", "lit the way for all the other bees"),
)

STORY_TEXT = (
    "Once upon a time there was a {animal} named {name}. {name} lived {home}. One morning {name} "
    "went for a walk and found {thing}. At first {name} did not know what to do with it. A wise "
    "old crow said that good things should be used well. So {name} thought about it and {end}. "
    "From that day on {name} was never lonely again. The end."
)

# (what is said, the reply)
SMALL_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("Hello", "Hi", "Hello!", "Hi!", "Hi there!", "Hey", "Hello there", "Greetings!"),
        "Hello! How can I help you?",
    ),
    (
        ("Good morning", "Good morning!", "Good morning to you."),
        "Good morning! How can I help you?",
    ),
    (
        ("Good evening", "Good evening!", "Good evening to you."),
        "Good evening! How can I help you?",
    ),
    (
        (
            "How are you?",
            "How are you today?",
            "How do you do?",
            "Are you well?",
            "How is it going?",
        ),
        "I am well, thank you. What would you like to know?",
    ),
    (
        (
            "Thank you",
            "Thanks",
            "Thank you!",
            "Thanks a lot!",
            "Many thanks.",
            "Thank you very much.",
        ),
        "You are welcome.",
    ),
    (
        ("Goodbye", "Bye", "Goodbye!", "Bye!", "See you later.", "Good night", "Good night!"),
        "Goodbye! It was nice to talk to you.",
    ),
    (
        (
            "Who are you?",
            "What are you?",
            "What is your name?",
            "Tell me about yourself.",
            "Introduce yourself.",
            "Are you a robot?",
            "Are you a person?",
            "Are you human?",
        ),
        "I am a very small language model that runs on your own computer.",
    ),
    (
        (
            "What can you do?",
            "How can you help me?",
            "What do you know?",
            "Help",
            "Help me.",
            "What can I ask you?",
            "What are you good at?",
            "What questions can you answer?",
        ),
        "I can add and subtract, compare numbers, spell words, name capitals and opposites, and "
        "describe simple things.",
    ),
    (
        ("Yes", "Okay", "OK", "Good", "Great!", "I see.", "Nice!", "Well done!"),
        "I am glad. What would you like to know next?",
    ),
)
