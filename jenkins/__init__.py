"""The far side: Jenkins, and nothing of trees, keys or indexes.

What is read of it (all of it GET; hudson.model.* of jenkinsci/jenkins exports the fields):

* ``<top>/api/json?tree=jobs[...]``      every job and matrix configuration with its newest good build
* ``<build>/api/json?tree=...``          one build's artifacts and md5 fingerprints, where the number moved
* ``<gate>/api/json?tree=allBuilds[..]`` which builds the test job passed
* ``<build>/artifact/<path>``            the files, by build number, never through a permalink

api (pure) knows the shapes, client the transport, errors what can go wrong between. The rest is a
Jenkins to try and test against: controller and jobs (what it knows), exports and treequery (how it
shows that), artifacts (how it serves files), wire and standin (the server), faults (how it fails);
samples, with squashfs, qcow2 and xz, makes small valid images for it to have built.
"""
