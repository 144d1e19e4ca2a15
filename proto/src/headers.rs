//! The headers of a request that a caller can have signed: one list for the broker, which refuses the
//! others, and for the proxy, which doesn't send them.

/// The most headers of one request: more than any MCP client sends, and little enough to sign in
/// microseconds.
pub const MAX_HEADERS: usize = 100;

/// The most bytes of all names and values of one request.
pub const MAX_HEADER_BYTES: usize = 64 << 10;

/// Whether a caller can't choose the header `name`, which is in lower case.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    match name {
        // The signature is for the endpoint's host: with a caller's, "allowed URL, host: evil" gave a
        // signature that is valid for evil.
        "host" | "forwarded" => true,
        // What SigV4 sets itself; a `date` makes some verifiers overlook `x-amz-date`.
        "authorization" | "date" => true,
        // Also `x-amz-security-token`: signed as given where the credentials have none. And
        // `x-amz-content-sha256`: it would speak of another body than the one that was read.
        _ if name.starts_with("x-amz-") => true,
        // One connection's own (RFC 9110, 7.6.1): gone or changed when it arrives.
        "connection" | "keep-alive" | "te" | "trailer" | "transfer-encoding" | "upgrade"
        | "proxy-connection" | "expect" => true,
        _ if name.starts_with("proxy-") => true,
        // What an HTTP stack sets or changes after the signature.
        "content-length" | "accept-encoding" | "user-agent" | "x-amzn-trace-id" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_reserved;

    #[test]
    fn what_the_signature_sets_is_reserved_and_a_caller_s_own_is_not() {
        for name in ["host", "x-amz-date", "x-amz-meta", "proxy-authorization", "user-agent"] {
            assert!(is_reserved(name), "{name}");
        }
        for name in ["x-team", "accept", "mcp-session-id", "x-amzn-requestid", "xamz-date"] {
            assert!(!is_reserved(name), "{name}");
        }
    }
}
