#!/bin/sh
[ "$*" = "*" ] || exit 3
cat <<'E'
{"Version": 1, "AccessKeyId": "AKIDPROC", "SecretAccessKey": "procsecret"}
E
