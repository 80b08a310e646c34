"""imagepress, in reading order.

Nouns, pure, data in and data out: image (products, files, kinds), policy (the operator's rules),
decisions (his word on single products, images, builds), plan (which build a product should be at),
archive and headers (whether tarballs and disks are whole), catalogue (what is listed), streams and
lxcindex (what clients read), proof (what clients would stumble over), page (for people), words, errors.
Verbs, which act, one step of the pipeline each: poll, make (an image's road: fetch, check), prune,
indexes (collect, write, prove), snapshot, purge, mirror; and beside it decide, preview, report, verify,
rebuild.
Doors to the world: files (disk), tree (the indexes of a tree), audit (an image's directory, read whole),
programs (processes), threads, sign (OpenPGP), state (the records in the state directory), ledgers (in line
with the tree), layout (where everything lies), settings (publish.toml).
Glue to doit: options (the command line), runtime (what one run knows), batches and exposure (the two
halves of the pipeline), reporter (what a run prints, and its exit code), journal (doit's database),
hands and commands; demo is the built-in trial site.
"""
