//! Decodes one string as it streams in: escapes and UTF-8.

use super::Handler;

/// Why it isn't a JSON string.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Defect {
    /// The position in the chunk at which this is detected.
    Syntax(usize),
    Encoding,
}

/// The state of reading a string.
#[derive(Debug, Default)]
pub(crate) struct Text {
    wanted: bool,
    key: bool,
    escape: Escape,
    /// The first half of a surrogate pair, whose second half must follow.
    high: Option<u16>,
    /// Whether half of a pair was found alone.
    lone: bool,
    /// The beginning of a character that was split by the end of the previous chunk.
    partial: [u8; 4],
    partial_length: usize,
}

#[derive(Debug, Clone, Copy, Default)]
enum Escape {
    #[default]
    None,
    /// After the backslash.
    Begun,
    /// After `\u`: the number of digits, and their value.
    Digits(u8, u16),
}

impl Text {
    pub(crate) fn begin(&mut self, wanted: bool, key: bool) {
        self.wanted = wanted;
        self.key = key;
        // The other fields have been reset by the end of the previous string.
        self.lone = false;
    }

    pub(crate) fn is_key(&self) -> bool {
        self.key
    }

    pub(crate) fn is_well_formed(&self) -> bool {
        !self.lone
    }

    /// Passes text on, if it is wanted.
    pub(crate) fn pass(&self, piece: &[u8], to: &mut impl Handler) {
        if self.wanted && !piece.is_empty() {
            to.text(piece);
        }
    }

    /// Reads up to the closing quotation mark or the end of the chunk. Returns how much was read, and whether the
    /// string ended.
    pub(crate) fn read(
        &mut self,
        chunk: &[u8],
        to: &mut impl Handler,
    ) -> Result<(usize, bool), Defect> {
        let mut at = 0;
        while at < chunk.len() {
            match self.escape {
                Escape::None => {
                    let (length, ascii) = plain(&chunk[at..]);
                    if length > 0 {
                        let run = &chunk[at..at + length];
                        // The fast path for nearly all text: no character is incomplete.
                        match ascii && self.partial_length == 0 && self.high.is_none() {
                            true => self.pass(run, to),
                            false => self.run(run, ascii, to)?,
                        }
                        at += length;
                        // The chunk ends here, or the byte ended the run.
                        if at == chunk.len() {
                            break;
                        }
                    }
                    if self.partial_length > 0 {
                        return Err(Defect::Encoding);
                    }
                    match chunk[at] {
                        b'"' => {
                            self.end_pair(to);
                            return Ok((at + 1, true));
                        }
                        b'\\' => match (chunk.get(at + 1), chunk.get(at + 2..at + 6)) {
                            (Some(b'u'), Some(digits)) => {
                                let unit = hexadecimal(digits);
                                let unit = unit.map_err(|wrong| Defect::Syntax(at + 2 + wrong))?;
                                self.unit(unit, to);
                                at += 6;
                                continue;
                            }
                            (Some(byte), _) => {
                                let escape = self.escaped(*byte, to);
                                self.escape = escape.ok_or(Defect::Syntax(at + 1))?;
                                at += 2;
                                continue;
                            }
                            (None, _) => self.escape = Escape::Begun,
                        },
                        // Control characters must be escaped.
                        _ => return Err(Defect::Syntax(at)),
                    }
                }
                Escape::Begun => {
                    self.escape = self.escaped(chunk[at], to).ok_or(Defect::Syntax(at))?;
                }
                Escape::Digits(count, value) => {
                    let digit = char::from(chunk[at]).to_digit(16).ok_or(Defect::Syntax(at))?;
                    let value = value << 4 | u16::try_from(digit).unwrap_or_default();
                    self.escape = if count == 3 {
                        self.unit(value, to);
                        Escape::None
                    } else {
                        Escape::Digits(count + 1, value)
                    };
                }
            }
            at += 1;
        }
        Ok((at, false))
    }

    /// Handles a run of unescaped text.
    fn run(&mut self, mut run: &[u8], ascii: bool, to: &mut impl Handler) -> Result<(), Defect> {
        self.end_pair(to);
        while self.partial_length > 0 {
            let Some((byte, rest)) = run.split_first() else { return Ok(()) };
            self.partial[self.partial_length] = *byte;
            self.partial_length += 1;
            run = rest;
            match std::str::from_utf8(&self.partial[..self.partial_length]) {
                Ok(character) => {
                    if self.wanted {
                        to.text(character.as_bytes());
                    }
                    self.partial_length = 0;
                }
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(Defect::Encoding),
            }
        }
        let whole = if ascii {
            run.len()
        } else {
            match std::str::from_utf8(run) {
                Ok(_) => run.len(),
                // Split at the end of the run: the next chunk may complete the character.
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                Err(_) => return Err(Defect::Encoding),
            }
        };
        self.pass(&run[..whole], to);
        let cut = &run[whole..];
        self.partial[..cut.len()].copy_from_slice(cut);
        self.partial_length = cut.len();
        Ok(())
    }

    #[inline(always)]
    fn escaped(&mut self, byte: u8, to: &mut impl Handler) -> Option<Escape> {
        let character = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => return Some(Escape::Digits(0, 0)),
            _ => return None,
        };
        self.end_pair(to);
        self.pass(&[character], to);
        Some(Escape::None)
    }

    /// Handles one UTF-16 code unit.
    fn unit(&mut self, unit: u16, to: &mut impl Handler) {
        if let (Some(high), 0xdc00..0xe000) = (self.high, unit) {
            self.high = None;
            let pair = [high, unit];
            self.characters(char::decode_utf16(pair).flatten(), to);
            return;
        }
        self.end_pair(to);
        match unit {
            0xd800..0xdc00 => self.high = Some(unit),
            0xdc00..0xe000 => self.stand_alone(to),
            _ => self.characters(char::from_u32(u32::from(unit)), to),
        }
    }

    #[inline(always)]
    fn end_pair(&mut self, to: &mut impl Handler) {
        if self.high.take().is_some() {
            self.stand_alone(to);
        }
    }

    fn stand_alone(&mut self, to: &mut impl Handler) {
        self.lone = true;
        self.characters([char::REPLACEMENT_CHARACTER], to);
    }

    fn characters(&self, characters: impl IntoIterator<Item = char>, to: &mut impl Handler) {
        for character in characters {
            self.pass(character.encode_utf8(&mut [0; 4]).as_bytes(), to);
        }
    }
}

/// The value of four digits; the error is the position of an invalid one.
fn hexadecimal(digits: &[u8]) -> Result<u16, usize> {
    digits.iter().enumerate().try_fold(0, |value, (at, digit)| {
        let digit = char::from(*digit).to_digit(16).and_then(|digit| u16::try_from(digit).ok());
        digit.map(|digit| value << 4 | digit).ok_or(at)
    })
}

/// The text before the closing quotation mark, if that is within [`SHORT`] bytes and the text is unescaped ASCII.
#[inline]
pub(crate) fn short_ascii(rest: &[u8]) -> Option<&[u8]> {
    let (length, ascii) = words(&rest[..rest.len().min(SHORT)]);
    (ascii && rest.get(length) == Some(&b'"')).then(|| &rest[..length])
}

/// Longer texts are read like any other.
const SHORT: usize = 64;

/// The length of the unescaped text, and whether all of it is ASCII.
#[inline]
fn plain(bytes: &[u8]) -> (usize, bool) {
    match words(&bytes[..bytes.len().min(SHORT)]) {
        (SHORT, ascii) => {
            let (more, more_ascii) = long_run(&bytes[SHORT..]);
            (SHORT + more, ascii && more_ascii)
        }
        near => near,
    }
}

/// [`plain`] for long texts: most of a large body is one long string.
#[inline(never)]
fn long_run(bytes: &[u8]) -> (usize, bool) {
    let (length, ascii) = blocks(bytes);
    let (last, last_ascii) = words(&bytes[length..]);
    (length + last, ascii && last_ascii)
}

/// [`plain`] for whole blocks without an escape. There is no branch within a block, so that the
/// compiler can vectorise it.
fn blocks(bytes: &[u8]) -> (usize, bool) {
    const BLOCK: usize = 64;
    let mut all = 0;
    let mut length = 0;
    for block in bytes.as_chunks::<BLOCK>().0 {
        let (mut ends, mut here) = (false, 0);
        for byte in block {
            ends |= (*byte < 0x20) | (*byte == b'"') | (*byte == b'\\');
            here |= byte;
        }
        if ends {
            break;
        }
        all |= here;
        length += BLOCK;
    }
    (length, all.is_ascii())
}

/// [`plain`], eight bytes at a time.
#[inline(always)]
fn words(bytes: &[u8]) -> (usize, bool) {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    // Sets a bit of `HIGH` for each zero byte; false positives occur only above a true one.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let mut beyond_ascii = 0;
    let mut length = 0;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        // The first byte is the lowest one.
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let quote = zeros(word ^ (ONES * u64::from(b'"')));
        let backslash = zeros(word ^ (ONES * u64::from(b'\\')));
        let ends = control | quote | backslash;
        if ends != 0 {
            // The lowest bit of each is correct, and therefore the lowest bit of all.
            let before = ends.trailing_zeros() / 8;
            beyond_ascii |= word & HIGH & ((1 << (before * 8)) - 1);
            return (length + before as usize, beyond_ascii == 0);
        }
        beyond_ascii |= word & HIGH;
        length += 8;
    }
    let mut ascii = beyond_ascii == 0;
    for byte in rest {
        if matches!(byte, 0..0x20 | b'"' | b'\\') {
            break;
        }
        ascii &= byte.is_ascii();
        length += 1;
    }
    (length, ascii)
}
