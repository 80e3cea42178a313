#!/bin/sh
# Has the flagstone beside it read its settings anew whenever FILE has other content: reload.sh FILE
#
# Begins with one reload, for the file may have changed since flagstone read it. One that fails is tried again until it
# succeeds: flagstone may still be starting, or the file gets corrected. The file is read by the service and not by the
# command, so that a mistake in it is in the service's log and metrics. Content is compared, as a mounted ConfigMap is
# changed by exchanging a link.
set -u
trap 'exit 0' TERM INT

seen=
while :; do
    content=$(cksum < "$1")
    if [ "$content" != "$seen" ] && flagstone reload --wait; then
        seen=$content
    fi
    # In the background, so that a signal need not wait for it.
    sleep "${PAUSE_S:-10}" &
    wait $!
done
