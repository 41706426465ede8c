"""Data that is made here, or that an installed package carries: every application runs without a download."""

# Descriptions of the data, for the model card and the page.
EMBEDDED = {
    "sentiment_classification": "reviews put together by rules around the 5,500 words and phrases that people rated for VADER; "
    "no review that somebody wrote",
    "translation": "5,000 sentences from 16 patterns around dates, times, numbers, money, measures and countries, written as "
    "each language writes them",
    "image_captioning": "drawings of one or two plain shapes on a plain ground, with one caption each; no photograph",
    "music_generation": "tunes of Ryan's Mammoth Collection (1883) and O'Neill's Music of Ireland (1903)",
    "piano_rolls": "chorales of Bach, as music21 has them",
    "language_model": "the reviews of the classifier, without their labels: put together by rules, no text that somebody wrote",
}
