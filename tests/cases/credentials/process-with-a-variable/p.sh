#!/bin/sh
[ "$1" = '$HOME' ] || exit 3
cat <<'E'
{"Version": 1, "AccessKeyId": "AKIDPROC", "SecretAccessKey": "procsecret"}
E
