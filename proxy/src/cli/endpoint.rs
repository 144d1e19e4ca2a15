//! Checks the endpoint, and puts its query into the one form that is signed and sent.

use std::fmt::Write as _;

use url::{Host, Url};

/// Checks an endpoint, and puts its query into the canonical form of SigV4.
///
/// A signature sent in clear text can be used by anyone who reads it, so http:// is allowed only on this machine. SigV4
/// signs the canonical form of a query: a server that verifies the received query would refuse another form, so the
/// broker refuses to sign one. The query is put into that form once, at the start.
pub(super) fn checked(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|error| {
        format!("isn't a URL ({error}); it must start with https://, or http:// on this machine")
    })?;
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return Err("has no host".to_owned()),
    };
    match url.scheme() {
        "https" => {}
        "http" if loopback => {}
        "http" => {
            return Err("uses http:// to another machine, where anyone in between could use its \
                        signatures; use https://"
                .to_owned());
        }
        scheme => return Err(format!("uses {scheme}://, not https://")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("contains a user name or password; remove it".to_owned());
    }
    if url.fragment().is_some() {
        return Err("has a fragment (#…), which is never sent; remove it".to_owned());
    }
    if let Some(query) = url.query() {
        let canonical = canonical(query)?;
        url.set_query(Some(canonical.as_str()).filter(|query| !query.is_empty()));
    }
    Ok(url)
}

/// A query in SigV4's canonical form: `name=value` pairs sorted by their bytes, all percent-encoded in upper case
/// except for the unreserved characters (AWS, "Create a signed AWS API request", step 1).
fn canonical(query: &str) -> Result<String, String> {
    let mut pairs = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (encoded(name)?, encoded(value)?);
        if name.is_empty() {
            return Err(format!("has a query parameter without a name: {pair:?}"));
        }
        if name.to_ascii_lowercase().starts_with("x-amz-") {
            return Err(format!("has the query parameter {name}, which only a signature sets"));
        }
        pairs.push((name, value));
    }
    pairs.sort();
    let pairs: Vec<_> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    Ok(pairs.join("&"))
}

/// A name or a value, decoded and encoded again.
fn encoded(text: &str) -> Result<String, String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'+' => {
                return Err("has a + in its query, which some servers read as a space; write %20 \
                            for a space, or %2B for a plus"
                    .to_owned());
            }
            b'%' => {
                let digits = after.get(..2).filter(|it| it.iter().all(u8::is_ascii_hexdigit));
                let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
                let value = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                let Some(value) = value else {
                    return Err("has a % in its query without two hexadecimal digits after it; \
                                write %25 for a percent sign"
                        .to_owned());
                };
                decoded.push(value);
                rest = &after[2..];
            }
            byte => decoded.push(*byte),
        }
    }
    if std::str::from_utf8(&decoded).is_err() {
        return Err("has a query that isn't UTF-8 when decoded".to_owned());
    }
    let mut encoded = String::with_capacity(text.len());
    for byte in decoded {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    Ok(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_put_into_canonical_form() {
        for (given, expected) in [
            ("qualifier=DEFAULT&accountId=1", "accountId=1&qualifier=DEFAULT"),
            ("q=a%2fb", "q=a%2Fb"),
            ("q=a/b:c", "q=a%2Fb%3Ac"),
            ("q=%7e%41", "q=~A"),
            ("flag", "flag="),
            ("b=2&a=2&a=1&&", "a=1&a=2&b=2"),
            // By the bytes of what is encoded, and by names before values.
            ("a-=1&a=2&A=3", "A=3&a=2&a-=1"),
            ("q=é x", "q=%C3%A9%20x"),
            ("q='()*!", "q=%27%28%29%2A%21"),
            ("a=b=c", "a=b%3Dc"),
        ] {
            let url = checked(&format!("https://h.example/mcp?{given}")).unwrap();
            assert_eq!(url.query(), Some(expected), "{given}");
            let again = checked(url.as_str()).unwrap();
            assert_eq!(again, url, "the canonical form stays as it is");
        }
        assert_eq!(checked("https://h.example/mcp?").unwrap().as_str(), "https://h.example/mcp");
    }

    #[test]
    fn a_query_that_can_be_read_in_two_ways_is_refused() {
        for (query, expected) in [
            ("q=a+b", "%20"),
            ("q=100%", "%25"),
            ("q=%zz", "%25"),
            ("q=%ff", "UTF-8"),
            ("=x", "without a name"),
            ("X-Amz-Signature=x", "only a signature"),
        ] {
            let error = checked(&format!("https://h.example/mcp?{query}")).unwrap_err();
            assert!(error.contains(expected), "{query}: {error}");
        }
    }
}
