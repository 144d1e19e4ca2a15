//! The headers of a request that a caller may have signed: one list for the broker, which refuses all others, and for
//! the proxy, which doesn't send them.

/// The most headers of one request: more than any MCP client sends, and few enough to sign in
/// microseconds.
pub const MAX_HEADERS: usize = 100;

/// The limit for the bytes of all names and values of one request.
pub const MAX_HEADER_BYTES: usize = 64 << 10;

/// Whether a caller may not set the header `name`, which must be in lower case.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    match name {
        // The attack: a signature is for the endpoint's host. If a caller could set it, "allowed URL, host: evil" would
        // give a signature that is valid for evil.
        "host" | "forwarded" => true,
        // Set by SigV4; with a `date`, some verifiers ignore `x-amz-date`.
        "authorization" | "date" => true,
        // Includes `x-amz-security-token`, which would be signed as given if the credentials have
        // none, and `x-amz-content-sha256`, which could refer to another body than the checked one.
        _ if name.starts_with("x-amz-") => true,
        // Headers of one connection (RFC 9110, 7.6.1), which are removed or changed in transit.
        "connection" | "keep-alive" | "te" | "trailer" | "transfer-encoding" | "upgrade"
        | "proxy-connection" | "expect" => true,
        _ if name.starts_with("proxy-") => true,
        // Headers that an HTTP stack sets or changes after signing.
        "content-length" | "accept-encoding" | "user-agent" | "x-amzn-trace-id" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_reserved;

    #[test]
    fn headers_of_the_signature_are_reserved_and_others_are_not() {
        for name in ["host", "x-amz-date", "x-amz-meta", "proxy-authorization", "user-agent"] {
            assert!(is_reserved(name), "{name}");
        }
        for name in ["x-team", "accept", "mcp-session-id", "x-amzn-requestid", "xamz-date"] {
            assert!(!is_reserved(name), "{name}");
        }
    }
}
