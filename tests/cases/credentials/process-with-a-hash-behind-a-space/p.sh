#!/bin/sh
[ "$*" = "--team # 1" ] || exit 3
cat <<'E'
{"Version": 1, "AccessKeyId": "AKIDPROC", "SecretAccessKey": "procsecret"}
E
