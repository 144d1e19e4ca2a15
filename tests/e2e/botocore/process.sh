#!/bin/sh
# A credential_process that returns its arguments in the session token; characters that headers can't hold become `_`.
token=args
for argument; do
    token="$token|"
    while [ -n "$argument" ]; do
        rest=${argument#?}
        letter=${argument%"$rest"}
        case $letter in
            [A-Za-z0-9.#\;\$\`*\~\&%{}/,=-]) token="$token$letter" ;;
            *) token="${token}_" ;;
        esac
        argument=$rest
    done
done
printf '{"Version": 1, "AccessKeyId": "AKIDPROC", "SecretAccessKey": "procsecret", "SessionToken": "%s"}\n' "$token"
