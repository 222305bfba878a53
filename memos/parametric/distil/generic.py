"""Built-in text that has nothing to do with anybody's memories.

:data:`PRESERVED` is what training holds on to: the adapter is kept from reading it and from changing what the model
says about it. :data:`UNRELATED` is what the gate measures drift on; the two share no question and no sentence.
"""

from __future__ import annotations

from typing import NamedTuple

#: What anybody may ask, the dots being each of some words: nearest to how facts are asked for, so kept by the dozen.
_ASKED = """
What do ... make?: bakers, tailors, potters, spiders, brewers, carpenters
Where do ... live?: owls, whales, camels, beavers, frogs, wolves
What do ... eat?: rabbits, bears, chickens, goats, bats, snails
Who invented the ...?: telephone, bicycle, printing press, light bulb, steam engine, zipper
What is a ...?: glacier, violin, bishop, comet, budget, sonnet
What is the capital of ...?: Spain, Brazil, Kenya, Canada, Norway, Peru
When was the ... built?: Eiffel Tower, Great Wall, Tower Bridge, Parthenon, Suez Canal, Colosseum
How do I ...?: bake bread, tie a tie, plant tomatoes, change a tire, save money, write a letter
What color is ...?: grass, snow, a banana, chocolate, the sea, a ruby
Tell me about ....: volcanoes, ballet, the Romans, jazz, bridges, tea
Which language do people speak in ...?: Austria, Egypt, Chile, Ghana, Iran, Quebec
What is the name of ...?: the longest river, our galaxy, the first man on the moon, a young dog, a baby cat
Can you recommend a ...?: book, film, recipe, museum, hike, board game
Who is the author of ...?: Dracula, Emma, Moby Dick, War and Peace, Faust, Dune
How many ... are there?: planets, continents, chess pieces, letters in English, oceans, time zones
Do you know ...?: any riddles, a good song, what time it is, how magnets work, who won, where Malta is
"""


class Exchange(NamedTuple):
    """A question that needs no memory, and an answer to it."""

    question: str
    answer: str


class Generic(NamedTuple):
    """Exchanges, which are read as a chat, passages, which are read as they are, and questions without an answer."""

    exchanges: tuple[Exchange, ...]
    passages: tuple[str, ...]
    questions: tuple[str, ...] = ()


def _questions() -> tuple[str, ...]:
    lines = [line.rsplit(": ", 1) for line in _ASKED.strip().splitlines()]
    return tuple(form.replace("...", word, 1) for form, words in lines for word in words.split(", "))


PRESERVED = Generic(
    questions=_questions(),
    exchanges=tuple(
        Exchange(*pair)
        for pair in (
            ("What is the capital of Japan?", "The capital of Japan is Tokyo."),
            ("How many months are in a year?", "There are twelve months in a year."),
            ("Why do leaves fall in autumn?", "Trees drop their leaves to save water and energy for the winter."),
            ("Write a sentence about the sea.", "The sea was calm and the boats moved slowly toward the harbor."),
            ("What is 9 minus 4?", "9 minus 4 is 5."),
            ("Who painted the Mona Lisa?", "The Mona Lisa was painted by Leonardo da Vinci."),
            ("What do cows eat?", "Cows eat grass and hay."),
            ("How can I learn a language faster?", "Practice a little every day and speak with native speakers."),
            ("Tell me a fun fact.", "Octopuses have three hearts and blue blood."),
            ("Which planet is the largest?", "Jupiter is the largest planet in the solar system."),
            ("Translate 'good morning' into Spanish.", "Good morning in Spanish is buenos días."),
            ("Can you explain gravity?", "Gravity is the force that pulls objects with mass toward each other."),
            ("Do you like music?", "As an AI I have no feelings, but I can talk with you about music."),
            ("I need a name for my cat.", "How about Luna? It is short and easy to call."),
            ("Name three colors.", "Red, blue and green."),
            ("Hello!", "Hello! How can I help you today?"),
            ("Do you know how to boil an egg?", "Put the egg in boiling water for eight minutes."),
            ("What's the meaning of 'brief'?", "Brief means short in time or length."),
            ("Remind me how to sort a list in Python.", "You can use the sorted function: sorted(my_list)."),
            ("When did the First World War begin?", "The First World War began in 1914."),
            ("Where do penguins live?", "Most penguins live in the Southern Hemisphere, many of them in Antarctica."),
            ("Please summarize the story of Cinderella.", "A kind girl goes to a ball, loses a shoe and is found."),
            ("What's the chemical formula of water?", "The chemical formula of water is H2O."),
            ("Can you give me advice for an interview?", "Prepare examples of your work and ask questions too."),
        )
    ),
    passages=(
        "The train left the station a little after noon and moved slowly through the hills toward the coast.",
        "In mathematics, a prime number is a natural number greater than one with no divisors but one and itself.",
        "for item in items:\n    total += item.price\n\nreturn total",
        "The company said on Monday that its sales had grown by four percent in the last quarter, helped by exports.",
        "Dear Ms. Hart, thank you for your letter of 3 May. We have received your order and will send it on Friday.",
        "Rice is grown in flooded fields, and the young plants are moved by hand once they are a few weeks old.",
        "John and Maria live in Boston. Their daughter's school is near the river, and her favorite color is purple.",
        "The password must be at least eight characters long and contain a number, a letter and a symbol.",
    ),
)

UNRELATED = Generic(
    exchanges=tuple(
        Exchange(*pair)
        for pair in (
            ("What is the capital of France?", "The capital of France is Paris."),
            ("How many days are in a week?", "There are seven days in a week."),
            ("Why is the sky blue?", "The sky is blue because air scatters blue light more than red light."),
            ("Write a short sentence about a cat.", "The cat sat by the window and watched the birds."),
            ("What is 7 plus 5?", "7 plus 5 is 12."),
            ("Who wrote Hamlet?", "Hamlet was written by William Shakespeare."),
            ("What do bees make?", "Bees make honey."),
            (
                "Give me a tip for sleeping well.",
                "Go to bed at the same time every night and avoid screens before sleep.",
            ),
            ("Can you tell me a joke?", "Why did the chicken cross the road? To get to the other side."),
            ("Translate 'thank you' into French.", "Thank you in French is merci."),
            ("What's the boiling point of water?", "Water boils at 100 degrees Celsius at sea level."),
            ("Thanks for your help.", "You're welcome! Let me know if you need anything else."),
        )
    ),
    passages=(
        "The history of bread begins in the Fertile Crescent, where people ground wild grains between stones.",
        "def add(a, b):\n    return a + b\n\nprint(add(2, 3))",
        "Water boils at a lower temperature in the mountains because the air pressure there is lower than at the sea.",
        "She closed the door, put her keys on the table and listened to the rain that was falling on the roof.",
        "The meeting was moved to Thursday because two of the members could not come on the day that was planned.",
    ),
)
