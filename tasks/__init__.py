"""imagepress, in reading order.

Nouns (pure: data in, data out): image, policy, plan, catalogue, streams, lxcindex, proof.
Verbs (act, one step of the pipeline each): poll, fetch, check, sign, make, collect, indexes,
expose, snapshot, mirror, prune, report. Doors: files (disk), programs (processes).
Rules: settings, errors. Glue to doit: runtime, journal, commands; demo is the built-in trial site.
"""
