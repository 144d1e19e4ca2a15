//! A JSON text, checked as it streams by: grammar (RFC 8259), UTF-8 and depth.
//!
//! Invariant: the same pieces of text reach the [`Handler`] however the input is cut into chunks, in
//! time linear in the input and in memory that doesn't depend on it. Nothing here recurses. Once
//! [`Scanner::push`] has failed, the text isn't JSON, and the rest of it is of no interest.

mod text;

pub(crate) use self::text::Text;

/// Deeper nesting is refused: nothing in MCP needs it, and recursive parsers overflow their stack on it.
pub const MAX_DEPTH: usize = 512;

/// What the scanner reports. Offsets count the bytes from the beginning of the text.
pub(crate) trait Handler {
    /// An object or an array begins at `at`.
    fn open(&mut self, container: Container, at: usize);
    /// The innermost one has ended before `end`.
    fn close(&mut self, end: usize);
    /// A string, or a number, begins at `at`. Its text is passed on only if the answer is true.
    fn scalar(&mut self, scalar: Scalar, at: usize) -> bool;
    /// A part of the text: of a number as it is written, of a string decoded, in UTF-8. Not cut at the
    /// borders of characters.
    fn text(&mut self, piece: &[u8]);
    /// The string or number has ended before `end`. A string with half of a surrogate pair isn't
    /// well formed: each reader makes something else of it.
    fn scalar_end(&mut self, end: usize, well_formed: bool);
    /// `null`, `true` or `false`.
    fn word(&mut self, word: Word, at: usize, end: usize);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Container {
    Object,
    Array,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar {
    Key,
    String,
    Number,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    Null,
    True,
    False,
}

/// Why a text isn't one JSON object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defect {
    /// Not JSON, from this byte on.
    Syntax(usize),
    /// A string that isn't UTF-8.
    Encoding,
    /// An array at the top.
    Array,
    /// A string, a number or a word at the top.
    Scalar,
    /// More than [`MAX_DEPTH`] levels.
    Depth,
}

/// Checks a text that comes in chunks.
#[derive(Debug)]
pub(crate) struct Scanner {
    state: State,
    /// The bytes of the chunks before.
    before: usize,
    open: Stack,
    text: Text,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Nothing but white space yet.
    Start,
    /// A value must come.
    Value,
    /// After `[`: a value, or the end.
    FirstElement,
    /// After `{`: a key, or the end.
    FirstKey,
    /// After a comma in an object.
    Key,
    Colon,
    /// After a value in a container.
    After,
    Text,
    Number(Number),
    /// A word, and how many of its letters have come.
    Word(Word, usize),
    /// After the end of the object.
    End,
}

#[derive(Debug, Clone, Copy)]
enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl Scanner {
    pub(crate) fn new() -> Self {
        Self { state: State::Start, before: 0, open: Stack::default(), text: Text::default() }
    }

    /// Reads on.
    pub(crate) fn push(&mut self, chunk: &[u8], to: &mut impl Handler) -> Result<(), Defect> {
        let mut at = 0;
        while at < chunk.len() {
            at = match self.state {
                State::Text => self.read_text(chunk, at, to)?,
                State::Number(number) => self.read_number(number, chunk, at, to)?,
                State::Word(word, matched) => self.read_word(word, matched, chunk, at, to)?,
                _ => self.read_structure(chunk, at, to)?,
            };
        }
        self.before += chunk.len();
        Ok(())
    }

    /// The text has ended: whether it was one whole object.
    pub(crate) fn finish(&self) -> Result<(), Defect> {
        match self.state {
            State::End => Ok(()),
            _ => Err(Defect::Syntax(self.before)),
        }
    }

    fn read_structure(
        &mut self,
        chunk: &[u8],
        mut at: usize,
        to: &mut impl Handler,
    ) -> Result<usize, Defect> {
        while at < chunk.len() {
            let byte = chunk[at];
            if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                at += 1;
                continue;
            }
            let offset = self.before + at;
            match (self.state, byte) {
                (State::Start, b'{') => self.open(Container::Object, offset, to)?,
                (State::Start, b'[') => return Err(Defect::Array),
                (State::Start, b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
                    return Err(Defect::Scalar);
                }
                (State::FirstKey | State::Key, b'"') => {
                    self.text.begin(to.scalar(Scalar::Key, offset), true);
                    self.state = State::Text;
                    return Ok(at + 1);
                }
                (State::Colon, b':') => self.state = State::Value,
                (State::FirstKey, b'}') => self.close(offset, to),
                (State::FirstElement, b']') => self.close(offset, to),
                (State::After, b'}') if self.open.in_object() => self.close(offset, to),
                (State::After, b']') if !self.open.in_object() => self.close(offset, to),
                (State::After, b',') => {
                    self.state = if self.open.in_object() { State::Key } else { State::Value };
                }
                (State::Value | State::FirstElement, _) => {
                    at = self.begin_value(byte, at, to)?;
                    if matches!(self.state, State::Text | State::Number(_) | State::Word(..)) {
                        return Ok(at);
                    }
                    continue;
                }
                _ => return Err(Defect::Syntax(offset)),
            }
            at += 1;
        }
        Ok(at)
    }

    fn begin_value(&mut self, byte: u8, at: usize, to: &mut impl Handler) -> Result<usize, Defect> {
        let offset = self.before + at;
        match byte {
            b'{' => self.open(Container::Object, offset, to)?,
            b'[' => self.open(Container::Array, offset, to)?,
            b'"' => {
                self.text.begin(to.scalar(Scalar::String, offset), false);
                self.state = State::Text;
            }
            b'-' | b'0'..=b'9' => {
                self.text.begin(to.scalar(Scalar::Number, offset), false);
                let number = match byte {
                    b'-' => Number::Minus,
                    b'0' => Number::Zero,
                    _ => Number::Integer,
                };
                self.text.pass(&[byte], to);
                self.state = State::Number(number);
            }
            b'n' => self.state = State::Word(Word::Null, 1),
            b't' => self.state = State::Word(Word::True, 1),
            b'f' => self.state = State::Word(Word::False, 1),
            _ => return Err(Defect::Syntax(offset)),
        }
        Ok(at + 1)
    }

    fn read_text(
        &mut self,
        chunk: &[u8],
        at: usize,
        to: &mut impl Handler,
    ) -> Result<usize, Defect> {
        let rest = &chunk[at..];
        let (read, ended) = self.text.read(rest, to).map_err(|defect| match defect {
            text::Defect::Encoding => Defect::Encoding,
            text::Defect::Syntax(within) => Defect::Syntax(self.before + at + within),
        })?;
        let at = at + read;
        if ended {
            to.scalar_end(self.before + at, self.text.is_well_formed());
            if self.text.is_key() {
                self.state = State::Colon;
            } else {
                self.end_value();
            }
        }
        Ok(at)
    }

    fn read_number(
        &mut self,
        mut number: Number,
        chunk: &[u8],
        at: usize,
        to: &mut impl Handler,
    ) -> Result<usize, Defect> {
        let mut end = at;
        while let Some(next) = chunk.get(end).and_then(|byte| number.after(*byte)) {
            number = next;
            end += 1;
        }
        self.text.pass(&chunk[at..end], to);
        if end == chunk.len() {
            self.state = State::Number(number);
        } else if number.may_end() {
            to.scalar_end(self.before + end, true);
            self.end_value();
        } else {
            return Err(Defect::Syntax(self.before + end));
        }
        Ok(end)
    }

    fn read_word(
        &mut self,
        word: Word,
        matched: usize,
        chunk: &[u8],
        at: usize,
        to: &mut impl Handler,
    ) -> Result<usize, Defect> {
        let letters = word.letters();
        if letters.get(matched) != Some(&chunk[at]) {
            return Err(Defect::Syntax(self.before + at));
        }
        let (matched, at) = (matched + 1, at + 1);
        if matched == letters.len() {
            let end = self.before + at;
            to.word(word, end - letters.len(), end);
            self.end_value();
        } else {
            self.state = State::Word(word, matched);
        }
        Ok(at)
    }

    fn open(
        &mut self,
        container: Container,
        offset: usize,
        to: &mut impl Handler,
    ) -> Result<(), Defect> {
        self.open.push(container).ok_or(Defect::Depth)?;
        to.open(container, offset);
        self.state = match container {
            Container::Object => State::FirstKey,
            Container::Array => State::FirstElement,
        };
        Ok(())
    }

    fn close(&mut self, offset: usize, to: &mut impl Handler) {
        self.open.pop();
        to.close(offset + 1);
        self.end_value();
    }

    fn end_value(&mut self) {
        self.state = if self.open.is_empty() { State::End } else { State::After };
    }
}

impl Number {
    /// The number with one more byte, if that belongs to it (RFC 8259, section 6).
    fn after(self, byte: u8) -> Option<Self> {
        match (self, byte) {
            (Self::Minus, b'0') => Some(Self::Zero),
            (Self::Minus, b'1'..=b'9') | (Self::Integer, b'0'..=b'9') => Some(Self::Integer),
            (Self::Zero | Self::Integer, b'.') => Some(Self::Point),
            (Self::Point | Self::Fraction, b'0'..=b'9') => Some(Self::Fraction),
            (Self::Zero | Self::Integer | Self::Fraction, b'e' | b'E') => Some(Self::Exponent),
            (Self::Exponent, b'+' | b'-') => Some(Self::ExponentSign),
            (Self::Exponent | Self::ExponentSign | Self::ExponentDigits, b'0'..=b'9') => {
                Some(Self::ExponentDigits)
            }
            _ => None,
        }
    }

    fn may_end(self) -> bool {
        matches!(self, Self::Zero | Self::Integer | Self::Fraction | Self::ExponentDigits)
    }
}

impl Word {
    fn letters(self) -> &'static [u8] {
        match self {
            Self::Null => b"null",
            Self::True => b"true",
            Self::False => b"false",
        }
    }
}

/// Which of the open containers are objects: a bit each.
#[derive(Debug, Default)]
struct Stack {
    depth: usize,
    objects: [u64; MAX_DEPTH / 64],
    innermost: bool,
}

impl Stack {
    fn push(&mut self, container: Container) -> Option<()> {
        let word = self.objects.get_mut(self.depth / 64)?;
        let bit = 1 << (self.depth % 64);
        self.innermost = container == Container::Object;
        if self.innermost {
            *word |= bit
        } else {
            *word &= !bit
        }
        self.depth += 1;
        Some(())
    }

    fn pop(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        if let Some(at) = self.depth.checked_sub(1) {
            self.innermost = self.objects[at / 64] >> (at % 64) & 1 == 1;
        }
    }

    fn in_object(&self) -> bool {
        self.innermost
    }

    fn is_empty(&self) -> bool {
        self.depth == 0
    }
}
