#!/bin/sh
# The last «Execute shell» step of a freestyle or matrix image job whose agent is the publisher's machine:
#
#   sh /srv/imagepress/jenkins/post-step.sh
#
# A build is not over before its last step is, so the publication cannot run inside it: it is started in the
# background, waits for this very build to end, and publishes. Its words go to the file that PUBLISH_LOG
# names, else to .hook.log in the checkout. A hint that is lost costs nothing: the nightly run takes what it finds.
set -eu
: "${JOB_NAME:?is set by Jenkins}" "${BUILD_NUMBER:?is set by Jenkins}"
checkout=$(cd "$(dirname "$0")/.." && pwd)
job=$JOB_NAME build=$BUILD_NUMBER
# Jenkins ends whatever still carries its cookie when a build ends; and a publication that finds the build's own
# variables refuses to wait for it.
unset JOB_NAME BUILD_NUMBER
export JENKINS_NODE_COOKIE=dontKillMe BUILD_ID=dontKillMe
cd "$checkout"
# No function around it: dash would keep a copy of our output open, and Jenkins waits until that is closed.
setsid "${DOIT:-.venv/bin/doit}" publish --job="$job" --build="$build" \
    </dev/null >>"${PUBLISH_LOG:-$checkout/.hook.log}" 2>&1 &
echo "imagepress: the publication of $job #$build waits for the end of this build; see ${PUBLISH_LOG:-$checkout/.hook.log}"
