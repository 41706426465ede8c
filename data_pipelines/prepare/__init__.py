"""Turn a corpus into token ids on disk, once, for data larger than memory.

    python -m data_pipelines.prepare pairs.tsv --to prepared/ --source-lang en --target-lang de
    python -m apps.translation.train --data prepared/

    python -m data_pipelines.prepare corpus.jsonl --to prepared/ --for language_model
    python -m apps.language_model.train --data prepared/

    python -m data_pipelines.prepare captions.tsv --to prepared/ --for image_captioning
    python -m apps.image_captioning.train --data prepared/

The source is read three times, a piece at a time: to count it, to learn the vocabulary from a sample, and to encode it by
several processes, each its own parts. What is finished is kept: after a kill, or on a full disk, the same command goes on. The
folder gets its name when all is in it. `data_pipelines/README.md` says what that is.

`kinds.py` says what differs from application to application, `job.py` does the work in its order, `rows.py` and `encoding.py` a
shard at a time by any process, `beam.py` by those of other machines; `folder.py` keeps what is finished.
"""
