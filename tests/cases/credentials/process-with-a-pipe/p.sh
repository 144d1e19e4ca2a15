#!/bin/sh
[ "$#" = 2 ] || exit 3
cat <<'E'
{"Version": 1, "AccessKeyId": "AKIDPROC", "SecretAccessKey": "procsecret"}
E
