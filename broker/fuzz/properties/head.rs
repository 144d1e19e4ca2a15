//! What holds for every URI and header that is signed: the fuzz target `head` looks for one where it doesn't.
//!
//! Lines: an endpoint's URL, a URI, and headers as `name: value`.

use sigward_broker::fuzz;
use sigward_proto::v1::Header;
use url::{Position, Url};

/// Fails if something doesn't hold for `data`.
pub(crate) fn check(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let texts = (lines.next().map(str::from_utf8), lines.next().map(str::from_utf8));
    let (Some(Ok(endpoint)), Some(Ok(uri))) = texts else { return };
    let headers: Vec<_> = lines.filter_map(header).collect();
    for prefix in [false, true] {
        let Some((path, signed)) = fuzz::head(endpoint, prefix, uri, &headers) else { continue };
        // Where a server that resolves the path goes: to the endpoint still.
        let there = Url::parse(endpoint).expect("an endpoint is a URL");
        let here = Url::parse(uri).expect("what is signed is a URL");
        assert_eq!(here.origin(), there.origin());
        assert!(here.username().is_empty() && here.password().is_none());
        assert!(here.fragment().is_none());
        if prefix {
            let base = there.path().trim_end_matches('/');
            assert!(here.path().starts_with(base), "{} left {}", here.path(), there.path());
        } else {
            assert_eq!(path.split('?').next(), Some(there.path()));
        }
        assert!(path.bytes().all(|byte| byte.is_ascii_graphic()), "{path:?}");
        // What is signed is what a client sends: there is no other way to write it.
        assert_eq!(path, here[Position::BeforePath..Position::AfterQuery]);
        assert_eq!(signed.len(), headers.len());
        for ((name, value), header) in signed.iter().zip(&headers) {
            assert!(header.name.eq_ignore_ascii_case(name) && header.value == value.as_bytes());
            assert!(value.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{value:?}");
            assert!(value.trim() == value && !value.contains("  "));
            let free = !["host", "authorization", "date", "connection"].contains(&name.as_str());
            assert!(free && !name.starts_with("x-amz-"), "{name}");
            assert!(!name.is_empty() && !name.bytes().any(|b| b.is_ascii_uppercase() || b == b':'));
        }
    }
}

fn header(line: &[u8]) -> Option<Header> {
    let at = line.iter().position(|byte| *byte == b':')?;
    let name = String::from_utf8(line[..at].to_vec()).ok()?;
    Some(Header {
        name,
        value: line[at + 1..].strip_prefix(b" ").unwrap_or(&line[at + 1..]).to_vec().into(),
    })
}
