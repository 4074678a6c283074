#!/bin/sh
# bundles.sh SWARM NAME=HOST:PORT ...
# Makes the swarm's authority in $CA and a bundle a node in $BUNDLES, and renews those that are
# there already: run it as often as you like. A node whose bundle is lost is revoked, and gets
# another one. Nothing here needs a network.
set -eu
ca=${CA:-/ca} bundles=${BUNDLES:-/bundles} ttl=${TTL:-90d}
swarm=$1
shift

test -e "$ca/ca.key" || gossipnode ca create "$swarm" --ca "$ca"

old=""
for bundle in "$bundles"/*.bundle; do
    test -e "$bundle" && old="$old --renew $bundle"
done

missing=""
known=$(gossipnode ca show --ca "$ca" --json)
for node in "$@"; do
    name=${node%%=*}
    test -e "$bundles/$name.bundle" && continue
    missing="$missing $node"
    case $known in
    *"\"name\": \"$name\""*) gossipnode ca revoke --ca "$ca" "$name" ;;
    esac
done
# One call, so that each bundle lists them all. Names, addresses and folders have no spaces.
# shellcheck disable=SC2086
test -z "$missing" || gossipnode ca issue --ca "$ca" --out "$bundles" --ttl "$ttl" $missing

# Those that were there learn of new nodes, too. Where one cannot be renewed, since it was revoked,
# the others are, one by one.
# shellcheck disable=SC2086
if test -n "$old" && ! gossipnode ca issue --ca "$ca" --ttl "$ttl" $old; then
    for bundle in $old; do
        test "$bundle" = --renew && continue
        gossipnode ca issue --ca "$ca" --ttl "$ttl" --renew "$bundle" || echo "$bundle is left as it was"
    done
fi

# Running nodes read it as it changes, and cut off whoever is on it.
cp "$ca/revocations.txt" "$bundles/.revocations.new"
mv "$bundles/.revocations.new" "$bundles/revocations.txt"
