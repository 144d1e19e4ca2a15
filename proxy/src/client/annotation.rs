//! Members that the proxy adds to `_meta` of a tool's result.
//!
//! Invariant: the rest of the text is unchanged, and values that the server sets under these keys are removed, so that
//! a reader can rely on them as the proxy's.

use crate::wire::{Edits, Envelope, Object};

/// The key of the identity that made the call.
pub(super) const IDENTITY: &str = "sigward/identity";
/// The key of a notice to the agent about the call's session.
pub(super) const NOTICE: &str = "sigward/notice";

/// The response with these members in `_meta` of its result, or `None` if it stays unchanged.
pub(super) fn annotated(response: &str, members: &[(&str, &str)]) -> Option<String> {
    if members.is_empty() {
        return None;
    }
    let envelope = Envelope::parse(response).ok()?;
    let result = Object::parse(envelope.result?).ok()?;
    let mut edits = Edits::new(response);
    // A duplicate `_meta` is ambiguous, so the response stays unchanged.
    match result.get("_meta").ok()? {
        Some(meta) if meta.starts_with('{') => {
            let meta = Object::parse(meta).ok()?;
            let is_ours = |name: &str| members.iter().any(|(key, _)| *key == name);
            edits.members(&meta, |member| is_ours(&member.name()), members);
        }
        Some(_) => return None,
        None => {
            let members = members.iter().map(|(key, value)| format!("\"{key}\":{value}"));
            let meta = format!("{{{}}}", members.collect::<Vec<_>>().join(","));
            edits.members(&result, |_| false, &[("_meta", &meta)]);
        }
    }
    edits.apply().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_result_stays_as_it_is() {
        let with = |result: &str| {
            let text = format!(r#"{{"jsonrpc":"2.0","id":1.0,"result":{result}}}"#);
            annotated(&text, &[(NOTICE, r#""n""#), (IDENTITY, "{}")])
        };
        let whole =
            |result: &str| Some(format!(r#"{{"jsonrpc":"2.0","id":1.0,"result":{result}}}"#));
        let added = r#""sigward/notice":"n","sigward/identity":{}"#;
        assert_eq!(with("{}"), whole(&format!(r#"{{"_meta":{{{added}}}}}"#)));
        assert_eq!(
            with(r#"{"content":[], "x":1.10}"#),
            whole(&format!(r#"{{"content":[], "x":1.10,"_meta":{{{added}}}}}"#))
        );
        assert_eq!(
            with(r#"{"_meta":{"a":1.10},"content":[]}"#),
            whole(&format!(r#"{{"_meta":{{"a":1.10,{added}}},"content":[]}}"#))
        );
        // The attack: a server that reports another identity to the agent.
        assert_eq!(
            with(r#"{"_meta":{"sigward/identity":{"profile":"prod"},"a":1}}"#),
            whole(&format!(r#"{{"_meta":{{"a":1,{added}}}}}"#))
        );
        assert_eq!(
            with(r#"{"_meta":{"sigward\/identity":1}}"#),
            whole(&format!(r#"{{"_meta":{{{added}}}}}"#))
        );
        for odd in [r#"{"_meta":1}"#, r#"{"_meta":{},"_meta":{}}"#, "[]", "null"] {
            assert_eq!(with(odd), None, "{odd}");
        }
        assert_eq!(
            annotated(
                r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}"#,
                &[(NOTICE, "1")]
            ),
            None
        );
        assert_eq!(annotated(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, &[]), None);
    }
}
