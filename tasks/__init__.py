"""imagepress, in reading order.

Nouns, pure, data in and data out: image (products, files, kinds), policy (the operator's rules), decisions
(his word on single products, images, builds), plan (which build a product should be at), archive and
headers (whether tarballs and disks are whole), metadata (metadata.yaml), origin (what other tools call
things), catalogue (what is listed), streams and lxcindex (what clients read), schema and proof (what clients
would stumble over), twin and overlay (what other servers list), stock (what of it lies here), page (for
people), rest and importurl (what older protocols ask for: protocols), webserver (nginx), apache and rsyncd
(what serves it), dated (snapshots as remotes), destination (where a mirror lies), portion (what of it one
gets), trace (which one it has), words, errors.
Verbs, which act, one step of the pipeline each: poll (or hook, for one build), make (an image's road: fetch,
check, delta), prune, haul (other servers' files), indexes (collect, write, prove), snapshot, purge, partial
(the indexes of a mirror that gets a part), mirror; beside it bring (the road of an image that no Jenkins
built: take; beside, for what lies there), follow (other servers), and decide, preview, report, verify,
rebuild.
Doors to the world: files (disk), trees (whole ones), frozen (snapshots of file systems), web (other
servers), foreign (other people's), tree (the indexes of a tree), audit (an image's directory, read whole),
programs (processes), rsync, xdelta, hashed (bytes that come in a stream), threads, turns (the lock), sign
(OpenPGP), state (the records in the state directory), ledgers (in line with the tree), mirrored (how mirrors
stand), layout (where everything lies), settings (what publish.toml may say) and config (reads it).
Glue to doit: options (the command line), runtime (what one run knows), batches and exposure (the two halves
of the pipeline), fleet (all mirrors at once), reporter (what a run prints, and its exit code), journal
(doit's database), hands, imports and commands; demo is the built-in trial site.
"""
