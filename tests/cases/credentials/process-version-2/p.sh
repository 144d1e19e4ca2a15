#!/bin/sh
cat <<'E'
{"Version": 2, "AccessKeyId": "AKIDPROC", "SecretAccessKey": "procsecret"}
E
