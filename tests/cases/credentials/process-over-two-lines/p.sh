#!/bin/sh
[ "$*" = "a b" ] || exit 3
cat <<'E'
{"Version": 1, "AccessKeyId": "AKIDPROC", "SecretAccessKey": "procsecret"}
E
