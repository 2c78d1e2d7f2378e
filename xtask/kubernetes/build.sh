#!/bin/sh
# build.sh OUT: always these flags; others (go vet, go test, a plain go build) compile all of Kubernetes once more
OUT=$(realpath "$1")
cd "$(dirname "$0")" || exit
V=k8s.io/component-base/version
CGO_ENABLED=0 exec go build -trimpath -gcflags=all=-dwarf=false \
    -ldflags="-s -w -X $V.gitVersion=v1.37.1 -X $V.gitMajor=1 -X $V.gitMinor=37" -o "$OUT" .
