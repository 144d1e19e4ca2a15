//! JSON-RPC as text: the envelope of a message, and edits that keep every other byte.
//!
//! A relay that parses and prints loses data: number spellings, key order, unknown fields.
//! Therefore nothing here converts a message to values. [`Object`] borrows the spans of one
//! object's members from the text; [`Edits`] collects replacements and writes the text once. This
//! is the only module that cuts text.
//!
//! Guarantees: a text that [`Envelope::parse`] accepted is one JSON object in valid UTF-8 with
//! unambiguous envelope members, and [`Edits::apply`] changes only what was requested.

mod edit;
mod envelope;
mod fault;
mod id;
mod object;
mod originate;
mod peek;
mod pieces;
mod text;

#[cfg(test)]
mod tests;

pub use self::edit::{Edits, object, trimmed, with_metadata};
pub use self::envelope::{Envelope, Kind, MAX_BATCH, batch};
pub use self::fault::Fault;
pub use self::id::Id;
pub use self::object::{Member, Object, elements};
pub use self::originate::{
    error_response, notification, request, result_response, tool_error, tool_text,
};
pub use self::peek::{Peek, peek};
pub use self::pieces::{NotUtf8, Pieces};
pub use self::text::{MAX_DEPTH, check_depth, check_depth_to, one_line, quote, string};
