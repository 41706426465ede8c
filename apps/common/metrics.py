"""Metrics: of a classifier, from the true class and the probabilities of all classes; of a translator, from its texts."""

import importlib.util
from collections.abc import Iterable, Sequence

import numpy as np

from apps.common.meteor import meteor_scores
from data_pipelines.languages import CHINESE, JAPANESE, KOREAN, UNSPACED, language_code
from data_pipelines.sources import DataError


def classification_metrics(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Accuracy, macro F1, ROC AUC (one against the rest), calibration error, log loss.

    Args:
        truth: (n,) class ids.
        probabilities: (n, classes), rows sum to 1.

    >>> classification_metrics(np.array([0, 1]), np.array([[1.0, 0.0], [0.0, 1.0]]))["accuracy"]
    1.0
    """
    from sklearn import metrics

    classes = np.arange(probabilities.shape[1])
    predicted = probabilities.argmax(axis=1)
    scores = probabilities[:, 1] if len(classes) == 2 else probabilities
    several = len(np.unique(truth)) == len(classes)
    return {
        "accuracy": float((predicted == truth).mean()),
        "macro_f1": float(metrics.f1_score(truth, predicted, labels=classes, average="macro", zero_division=0)),
        "roc_auc": float(metrics.roc_auc_score(truth, scores, multi_class="ovr")) if several else float("nan"),
        "ece": expected_calibration_error(truth, probabilities),
        "log_loss": float(metrics.log_loss(truth, probabilities, labels=classes)),
        "examples": len(truth),
    }


def per_class_metrics(truth: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and the number of examples of each class; 0 where nothing is divided by nothing.

    >>> per_class_metrics(np.array([0, 0, 1]), np.array([0, 1, 1]), ["a", "b"])["b"]
    {'precision': 0.5, 'recall': 1.0, 'f1': 0.6666666666666666, 'examples': 1}
    """
    from sklearn import metrics

    parts = metrics.precision_recall_fscore_support(truth, predicted, labels=np.arange(len(names)), zero_division=0)
    columns = ("precision", "recall", "f1", "examples")
    return {name: dict(zip(columns, (*map(float, row[:3]), int(row[3])))) for name, row in zip(names, np.stack(parts, axis=1))}


def calibration_bins(truth: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> list[tuple[float, float, int]]:
    """`(mean confidence, accuracy, examples)` of each filled bin of the predicted class's probability."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        (float(confidence[place == b].mean()), float(correct[place == b].mean()), int((place == b).sum()))
        for b in range(bins)
        if (place == b).any()
    ]


def expected_calibration_error(truth: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: the mean distance of confidence and accuracy over the bins (Guo et al. 2017,
    https://arxiv.org/abs/1706.04599).

    >>> expected_calibration_error(np.array([0, 0, 0, 1]), np.array([[0.75, 0.25]] * 4))
    0.0
    """
    parts = calibration_bins(truth, probabilities, bins)
    return float(sum(count * abs(confidence - accuracy) for confidence, accuracy, count in parts) / len(truth))


BLEU_TOKENIZERS = ("auto", "13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "flores200", "none")


def bleu_tokenizer(name: str, language: str) -> str:
    """The tokenizer that sacreBLEU takes; `auto` is by the target language.

    13a finds no words where no spaces are. Where sacreBLEU's own for Japanese or Korean is not installed, and for other
    languages without spaces, it is by characters.

    Raises:
        DataError: the named one can't be had here.

    >>> [bleu_tokenizer("auto", language) for language in ("de", "zh-CN", "tha")]
    ['13a', 'zh', 'char']
    """
    if name != "auto":
        translation_metrics(["a"], ["a"], name)
        return name
    short = language_code(language)
    for languages, tokenizer, module in ((JAPANESE, "ja-mecab", "MeCab"), (KOREAN, "ko-mecab", "mecab_ko")):
        if short in languages:
            return tokenizer if importlib.util.find_spec(module) else "char"
    return "zh" if short in CHINESE else "char" if short in UNSPACED else "13a"


def translation_metrics(translations: Sequence[str], references: Sequence[str], tokenizer: str = "13a") -> dict[str, float | str]:
    """BLEU (Papineni et al. 2002), cased and lower-cased, and chrF (Popović 2015), by sacrebleu on raw text, with the
    signature that says how (Post 2018, https://aclanthology.org/W18-6319); and the share translated exactly.

    Raises:
        DataError: the tokenizer needs a package that is not installed.

    >>> metrics = translation_metrics(["The dog runs home now."], ["The dog runs home now."])
    >>> print(metrics["bleu"], metrics["exact_match"])
    100.0 1.0
    """
    import sacrebleu

    packages = {"ja-mecab": "sacrebleu[ja]", "ko-mecab": "sacrebleu[ko]"}
    try:
        bleu = sacrebleu.BLEU(tokenize=tokenizer)
    except (RuntimeError, ImportError, OSError) as error:  # flores200 is downloaded
        remedy = f"Run: pip install '{packages[tokenizer]}'" if tokenizer in packages else "Pass --bleu-tokenize char."
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise DataError(f"--bleu-tokenize {tokenizer}: can't be had here ({reason}). {remedy}") from None
    scores = {
        "bleu": bleu,
        "bleu_lowercase": sacrebleu.BLEU(lowercase=True, tokenize=tokenizer),
        "chrf": sacrebleu.CHRF(),
    }
    metrics: dict[str, float | str] = {
        name: round(score.corpus_score(list(translations), [list(references)]).score, 2) for name, score in scores.items()
    }
    exact = float(np.mean([a == b for a, b in zip(translations, references, strict=True)]))
    signature = str(scores["bleu"].get_signature())
    return {**metrics, "exact_match": exact, "examples": len(translations), "bleu_signature": signature}


def sentence_scores(translations: Sequence[str], references: Sequence[str], tokenizer: str = "13a") -> list[dict[str, float]]:
    """BLEU, of the n-grams that a sentence is long enough for, and chrF of each sentence.

    >>> sentence_scores(["A dog runs."], ["A dog runs."])
    [{'bleu': 100.0, 'chrf': 100.0}]
    """
    import sacrebleu

    bleu, chrf = sacrebleu.BLEU(tokenize=tokenizer, effective_order=True), sacrebleu.CHRF()
    return [
        {name: round(score.sentence_score(a, [b]).score, 2) for name, score in (("bleu", bleu), ("chrf", chrf))}
        for a, b in zip(translations, references, strict=True)
    ]


def caption_metrics(captions: Sequence[str], references: Sequence[Sequence[str]], meteor: bool = True) -> dict[str, float]:
    """BLEU-1 to 4, ROUGE-L and CIDEr-D by pycocoevalcap, and METEOR 1.5 (for English), which takes some seconds.

    Both sides are lower-cased and cut into words; punctuation is left out, as in the evaluation of COCO (Chen et al. 2015,
    https://arxiv.org/abs/1504.00325). BLEU, ROUGE-L and METEOR are times 100; CIDEr is as usual.

    >>> metrics = caption_metrics(["A dog runs home.", "Two cats."], [["a dog runs home"], ["two cats sleep"]], meteor=False)
    >>> print(round(metrics["bleu_1"], 1), metrics["examples"])
    84.6 2
    """
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.rouge.rouge import Rouge

    found, expected = _as_coco([[caption] for caption in captions]), _as_coco(references)
    bleu, _ = Bleu(4).compute_score(expected, found, verbose=0)
    rouge, _ = Rouge().compute_score(expected, found)
    metrics = {f"bleu_{n}": 100 * float(value) for n, value in enumerate(bleu, start=1)}
    metrics |= {"cider": float(np.mean(cider_scores(captions, references))), "rouge_l": 100 * float(rouge)}
    if meteor:
        metrics["meteor"] = 100 * meteor_scores([text for [text] in found.values()], list(expected.values()))[0]
    return {**metrics, "examples": len(captions)}


def diversity_metrics(captions: Sequence[str], training: Iterable[str] | None = None) -> dict[str, float]:
    """How much captions differ from one another: `distinct_1` and `distinct_2`, different words and pairs of words over all of
    them (Li et al. 2016, https://aclanthology.org/N16-1014), the number of different captions and their mean length; and from
    those of the training, the share of `novel_captions`. Words are as in `caption_metrics`; one caption for all has the least.

    Args:
        training: the captions of the training; without them nothing is said of novelty.

    >>> metrics = diversity_metrics(["A dog runs.", "A dog sits."], training=["a dog runs"])
    >>> print(metrics["distinct_1"], metrics["distinct_2"], metrics["unique_captions"], metrics["novel_captions"])
    0.6666666666666666 0.75 2 0.5
    """
    plain = [text for [text] in _as_coco([[caption] for caption in captions]).values()]
    words = [text.split() for text in plain]
    metrics: dict[str, float] = {}
    for n in (1, 2):
        grams = [gram for row in words for gram in zip(*(row[start:] for start in range(n)))]
        metrics[f"distinct_{n}"] = len(set(grams)) / max(1, len(grams))
    metrics |= {"unique_captions": len(set(plain)), "words_per_caption": float(np.mean([len(row) for row in words]))}
    if training is not None:
        known = {text for [text] in _as_coco([[caption] for caption in training]).values()}
        metrics["novel_captions"] = float(np.mean([text not in known for text in plain]))
    return metrics


def cider_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """CIDEr-D of each caption (Vedantam et al. 2015, https://arxiv.org/abs/1411.5726); word frequencies from all references."""
    from pycocoevalcap.cider.cider import Cider

    expected = _as_coco(references)
    if not any(text for group in expected.values() for text in group):  # pycocoevalcap has no score for this
        return np.zeros(len(captions))
    return Cider().compute_score(expected, _as_coco([[caption] for caption in captions]))[1]


def _as_coco(texts: Sequence[Sequence[str]]) -> dict[int, list[str]]:
    return {i: [" ".join(words) for words in group] for i, group in enumerate(as_words(texts))}


def as_words(texts: Sequence[Sequence[str]]) -> list[list[list[str]]]:
    """The lower-cased words of each text of each group, without punctuation."""
    import tensorflow as tf

    from data_pipelines.vocabulary import split_words

    rows = iter(split_words(tf.constant([text for group in texts for text in group], tf.string)).to_list())
    return [[[w for w in map(bytes.decode, next(rows)) if any(map(str.isalnum, w))] for _ in group] for group in texts]
