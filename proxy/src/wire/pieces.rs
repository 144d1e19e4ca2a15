//! Joins a message that arrives in pieces into one line.
//!
//! Each piece is checked while it is in the processor's cache. Another pass over a large message would load all of it
//! from memory again.

use memchr::memchr2_iter;

/// The bytes aren't UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not UTF-8")]
pub struct NotUtf8;

/// The text so far.
#[derive(Debug, Default)]
pub struct Pieces {
    text: String,
    /// The beginning of a character whose rest is in the next piece.
    cut: [u8; 4],
    cut_length: usize,
}

impl Pieces {
    /// Makes an empty text with room for `length` bytes and a final line break.
    #[must_use]
    pub fn expecting(length: usize) -> Self {
        Self { text: String::with_capacity(length + 1), ..Self::default() }
    }

    /// Appends a piece without its line breaks, like [`one_line`](super::one_line).
    ///
    /// # Errors
    /// The piece isn't UTF-8; the text so far can't be used any more.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), NotUtf8> {
        while self.cut_length > 0 {
            let Some((byte, rest)) = piece.split_first() else { return Ok(()) };
            *self.cut.get_mut(self.cut_length).ok_or(NotUtf8)? = *byte;
            self.cut_length += 1;
            piece = rest;
            match std::str::from_utf8(&self.cut[..self.cut_length]) {
                Ok(character) => {
                    self.text.push_str(character);
                    self.cut_length = 0;
                }
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(NotUtf8),
            }
        }
        let text = match std::str::from_utf8(piece) {
            Ok(text) => text,
            Err(error) if error.error_len().is_none() => {
                let (text, cut) = piece.split_at(error.valid_up_to());
                self.cut[..cut.len()].copy_from_slice(cut);
                self.cut_length = cut.len();
                std::str::from_utf8(text).map_err(|_| NotUtf8)?
            }
            Err(_) => return Err(NotUtf8),
        };
        let mut from = 0;
        for at in memchr2_iter(b'\n', b'\r', text.as_bytes()) {
            self.text.push_str(&text[from..at]);
            from = at + 1;
        }
        self.text.push_str(&text[from..]);
        Ok(())
    }

    /// The whole text.
    ///
    /// # Errors
    /// The text ends within a character.
    pub fn finish(self) -> Result<String, NotUtf8> {
        match self.cut_length {
            0 => Ok(self.text),
            _ => Err(NotUtf8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(pieces: &[&[u8]]) -> Result<String, NotUtf8> {
        let mut whole = Pieces::expecting(0);
        pieces.iter().try_for_each(|piece| whole.push(piece))?;
        whole.finish()
    }

    #[test]
    fn the_text_is_the_same_however_it_is_cut() {
        let text = "\r\na\u{e9}\u{6f22}\n\n\u{1f600}b\r";
        let expected = "a\u{e9}\u{6f22}\u{1f600}b";
        let bytes = text.as_bytes();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(whole(&pieces).as_deref(), Ok(expected), "cut at {first} and {second}");
            }
        }
        let bytes: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(whole(&bytes).as_deref(), Ok(expected));
    }

    #[test]
    fn invalid_utf8_is_refused_however_it_is_cut() {
        for bytes in
            [&b"a\xff"[..], b"\xc3", b"\xc3\n\xa9", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"a\x80b"]
        {
            for cut in 0..=bytes.len() {
                let refused = whole(&[&bytes[..cut], &bytes[cut..]]);
                assert_eq!(refused, Err(NotUtf8), "{bytes:?} cut at {cut}");
            }
        }
    }
}
