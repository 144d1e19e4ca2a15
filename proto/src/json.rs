//! Checks a JSON text as it streams in: grammar (RFC 8259), UTF-8 and depth.
//!
//! Invariant: the [`Handler`] gets the same pieces of text however the input is split into chunks, in time linear in
//! the input, and with memory that doesn't depend on the input except for one bit for each level of nesting. Nothing
//! here is recursive. Once [`Scanner::push`] has failed, the text isn't JSON, and the rest isn't examined.

mod text;

pub(crate) use self::text::Text;

/// Deeper nesting is refused: nothing in MCP needs it, and recursive parsers would overflow their stack.
pub const MAX_DEPTH: usize = 512;

/// Receives what the scanner finds. Offsets count the bytes from the beginning of the text.
pub(crate) trait Handler {
    /// An object or an array begins at `at`. Its content is passed on only if this returns true; its end is always
    /// passed on.
    fn open(&mut self, container: Container, at: usize) -> bool;
    /// The innermost container that was passed on ended before `end`.
    fn close(&mut self, end: usize);
    /// Called with an undecoded key, without quotation marks. Returns whether the key needs no further processing. Not
    /// every key is passed here.
    fn skips_key(&mut self, key: &[u8]) -> bool;
    /// A string or a number begins at `at`. Its text is passed on only if this returns true.
    fn scalar(&mut self, scalar: Scalar, at: usize) -> bool;
    /// A part of the text: a number is passed as written, a string decoded, in UTF-8. Parts may end within a character.
    fn text(&mut self, piece: &[u8]);
    /// The string or number ended before `end`. A string with half of a surrogate pair isn't
    /// well-formed: readers interpret it differently.
    fn scalar_end(&mut self, end: usize, well_formed: bool);
    /// `null`, `true` or `false`.
    fn literal(&mut self, literal: Literal, at: usize, end: usize);
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
pub(crate) enum Literal {
    Null,
    True,
    False,
}

/// Why a text isn't one JSON object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defect {
    /// It isn't JSON from this byte on.
    Syntax(usize),
    /// A string isn't UTF-8.
    Encoding,
    /// It is an array.
    Array,
    /// It is a string, a number or a literal.
    Scalar,
    /// It is nested too deep.
    Depth,
}

/// Checks a text that arrives in chunks.
#[derive(Debug)]
pub(crate) struct Scanner {
    state: State,
    /// The number of bytes in earlier chunks.
    before: usize,
    open: Stack,
    /// The level of the container whose content isn't passed on; 0 for none.
    ignored: usize,
    text: Text,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Only white space so far.
    Start,
    /// Before a value.
    Value,
    /// After `[`: before a value, or the end.
    FirstElement,
    /// After `{`: before a key, or the end.
    FirstKey,
    /// After a comma in an object.
    Key,
    Colon,
    /// After a value in a container.
    After,
    Text,
    Number(Number),
    /// Within a literal, with the number of its letters so far.
    Literal(Literal, u8),
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
    /// Makes a scanner that allows [`MAX_DEPTH`] levels.
    pub(crate) fn new() -> Self {
        Self::with_depth(MAX_DEPTH)
    }

    /// Makes a scanner that allows `limit` levels, rounded up to a multiple of 64.
    pub(crate) fn with_depth(limit: usize) -> Self {
        let (open, text) = (Stack::new(limit), Text::default());
        Self { state: State::Start, before: 0, open, ignored: 0, text }
    }

    /// Reads the next chunk.
    pub(crate) fn push(&mut self, chunk: &[u8], to: &mut impl Handler) -> Result<(), Defect> {
        let mut state = self.state;
        let mut at = 0;
        while let Some(&byte) = chunk.get(at) {
            (at, state) = match state {
                State::After => match byte {
                    b',' => (at + 1, self.open.after_comma()),
                    b'}' if self.open.in_object() => self.close(chunk, at, to),
                    b']' if !self.open.in_object() => self.close(chunk, at, to),
                    _ => (self.space(byte, at)?, state),
                },
                State::Value => self.begin_value(byte, state, chunk, at, to)?,
                State::FirstElement if byte == b']' => self.close(chunk, at, to),
                State::FirstElement => self.begin_value(byte, state, chunk, at, to)?,
                State::FirstKey if byte == b'}' => self.close(chunk, at, to),
                State::FirstKey | State::Key => match byte {
                    b'"' => self.begin_key(chunk, at, to)?,
                    _ => (self.space(byte, at)?, state),
                },
                State::Colon => match byte {
                    b':' => (at + 1, State::Value),
                    _ => (self.space(byte, at)?, state),
                },
                // The previous chunk ended within it.
                State::Text => self.read_text(chunk, at, to)?,
                State::Number(number) => self.read_number(number, chunk, at, at, to)?,
                State::Literal(literal, matched) => {
                    self.read_literal(literal, matched, chunk, at, to)?
                }
                State::Start => match byte {
                    b'{' => (at + 1, self.open(Container::Object, at, to)?),
                    b'[' => return Err(Defect::Array),
                    b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => return Err(Defect::Scalar),
                    _ => (self.space(byte, at)?, state),
                },
                State::End => (self.space(byte, at)?, state),
            };
        }
        self.state = state;
        self.before += chunk.len();
        Ok(())
    }

    /// The position after the byte at `at`, which must be white space.
    fn space(&self, byte: u8, at: usize) -> Result<usize, Defect> {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => Ok(at + 1),
            _ => Err(Defect::Syntax(self.before + at)),
        }
    }

    /// Checks that the text was one complete object.
    pub(crate) fn finish(&self) -> Result<(), Defect> {
        match self.state {
            State::End => Ok(()),
            _ => Err(Defect::Syntax(self.before)),
        }
    }

    // Each of these returns how far it has read, and the state there. The inlined ones do less work than a call would
    // cost.

    fn begin_key(
        &mut self,
        chunk: &[u8],
        at: usize,
        to: &mut impl Handler,
    ) -> Result<(usize, State), Defect> {
        let rest = &chunk[at + 1..];
        if let Some(key) = text::short_ascii(rest)
            && (self.ignored > 0 || to.skips_key(key))
        {
            let end = at + key.len() + 2;
            let colon = chunk.get(end) == Some(&b':');
            return Ok(if colon { (end + 1, State::Value) } else { (end, State::Colon) });
        }
        let wanted = self.ignored == 0 && to.scalar(Scalar::Key, self.before + at);
        self.text.begin(wanted, true);
        self.read_text(chunk, at + 1, to)
    }

    #[inline(always)]
    fn begin_value(
        &mut self,
        byte: u8,
        state: State,
        chunk: &[u8],
        at: usize,
        to: &mut impl Handler,
    ) -> Result<(usize, State), Defect> {
        let number = match byte {
            b'{' => return Ok((at + 1, self.open(Container::Object, at, to)?)),
            b'[' => return Ok((at + 1, self.open(Container::Array, at, to)?)),
            b'"' => {
                if self.ignored > 0
                    && let Some(text) = text::short_ascii(&chunk[at + 1..])
                {
                    return Ok(self.after(chunk, at + text.len() + 2));
                }
                let wanted = self.ignored == 0 && to.scalar(Scalar::String, self.before + at);
                self.text.begin(wanted, false);
                return self.read_text(chunk, at + 1, to);
            }
            b'n' => return self.read_literal(Literal::Null, 0, chunk, at, to),
            b't' => return self.read_literal(Literal::True, 0, chunk, at, to),
            b'f' => return self.read_literal(Literal::False, 0, chunk, at, to),
            b'-' => Number::Minus,
            b'0' => Number::Zero,
            b'1'..=b'9' => Number::Integer,
            _ => return Ok((self.space(byte, at)?, state)),
        };
        if self.ignored > 0
            && let Some(end) = number.whole(chunk, at + 1)
        {
            return Ok(self.after(chunk, end));
        }
        let wanted = self.ignored == 0 && to.scalar(Scalar::Number, self.before + at);
        self.text.begin(wanted, false);
        self.read_number(number, chunk, at, at + 1, to)
    }

    fn read_text(
        &mut self,
        chunk: &[u8],
        at: usize,
        to: &mut impl Handler,
    ) -> Result<(usize, State), Defect> {
        let (read, ended) = self.text.read(&chunk[at..], to).map_err(|defect| match defect {
            text::Defect::Encoding => Defect::Encoding,
            text::Defect::Syntax(within) => Defect::Syntax(self.before + at + within),
        })?;
        let at = at + read;
        if !ended {
            return Ok((at, State::Text));
        }
        if self.ignored == 0 {
            to.scalar_end(self.before + at, self.text.is_well_formed());
        }
        Ok(if self.text.is_key() { (at, State::Colon) } else { self.after(chunk, at) })
    }

    /// Continues at `at`; the part of the number in this chunk begins at `from`.
    fn read_number(
        &mut self,
        mut number: Number,
        chunk: &[u8],
        from: usize,
        mut at: usize,
        to: &mut impl Handler,
    ) -> Result<(usize, State), Defect> {
        while let Some(next) = chunk.get(at).and_then(|byte| number.after(*byte)) {
            number = next;
            at += 1;
        }
        self.text.pass(&chunk[from..at], to);
        if at == chunk.len() {
            return Ok((at, State::Number(number)));
        }
        if !number.may_end() {
            return Err(Defect::Syntax(self.before + at));
        }
        if self.ignored == 0 {
            to.scalar_end(self.before + at, true);
        }
        Ok(self.after(chunk, at))
    }

    fn read_literal(
        &mut self,
        literal: Literal,
        matched: u8,
        chunk: &[u8],
        at: usize,
        to: &mut impl Handler,
    ) -> Result<(usize, State), Defect> {
        let letters = &literal.letters()[usize::from(matched)..];
        let come = &chunk[at..];
        let same = come.iter().zip(letters).take_while(|(letter, wanted)| letter == wanted).count();
        let end = at + same;
        if same == letters.len() {
            if self.ignored == 0 {
                to.literal(literal, self.before + end - literal.letters().len(), self.before + end);
            }
            return Ok(self.after(chunk, end));
        }
        if end < chunk.len() {
            return Err(Defect::Syntax(self.before + end));
        }
        Ok((end, State::Literal(literal, matched + same as u8)))
    }

    #[inline(always)]
    fn open(
        &mut self,
        container: Container,
        at: usize,
        to: &mut impl Handler,
    ) -> Result<State, Defect> {
        self.open.push(container).ok_or(Defect::Depth)?;
        if self.ignored == 0 && !to.open(container, self.before + at) {
            self.ignored = self.open.depth;
        }
        Ok(match container {
            Container::Object => State::FirstKey,
            Container::Array => State::FirstElement,
        })
    }

    #[inline(always)]
    fn close(&mut self, chunk: &[u8], at: usize, to: &mut impl Handler) -> (usize, State) {
        if self.ignored == self.open.depth {
            self.ignored = 0;
        }
        if self.ignored == 0 {
            to.close(self.before + at + 1);
        }
        self.open.pop();
        if self.open.is_empty() { (at + 1, State::End) } else { self.after(chunk, at + 1) }
    }

    /// After a value that ended before `at`. Mostly a comma follows.
    #[inline(always)]
    fn after(&self, chunk: &[u8], at: usize) -> (usize, State) {
        match chunk.get(at) {
            Some(b',') => (at + 1, self.open.after_comma()),
            _ => (at, State::After),
        }
    }
}

impl Number {
    /// The state after one more byte, if it belongs to the number (RFC 8259, section 6).
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

    /// The end of an integer whose digits continue at `at`, if it is one and ends within the chunk.
    #[inline]
    fn whole(self, chunk: &[u8], mut at: usize) -> Option<usize> {
        match self {
            Self::Integer => {
                while chunk.get(at).is_some_and(u8::is_ascii_digit) {
                    at += 1;
                }
            }
            Self::Zero => {}
            _ => return None,
        }
        let next = chunk.get(at)?;
        (!matches!(next, b'0'..=b'9' | b'.' | b'e' | b'E')).then_some(at)
    }

    fn may_end(self) -> bool {
        matches!(self, Self::Zero | Self::Integer | Self::Fraction | Self::ExponentDigits)
    }
}

impl Literal {
    fn letters(self) -> &'static [u8] {
        match self {
            Self::Null => b"null",
            Self::True => b"true",
            Self::False => b"false",
        }
    }
}

/// A stack of open containers: one bit tells whether each is an object.
#[derive(Debug)]
struct Stack {
    /// Checked only when a word of bits is full.
    limit: usize,
    depth: usize,
    /// The bits of the innermost containers; the lowest bit is the innermost one.
    objects: u64,
    /// The values of `objects` at each depth that is a multiple of its bits, except for 0.
    outer: Vec<u64>,
}

impl Stack {
    fn new(limit: usize) -> Self {
        Self { limit, depth: 0, objects: 0, outer: Vec::new() }
    }

    fn push(&mut self, container: Container) -> Option<()> {
        if self.depth.is_multiple_of(64) {
            if self.depth >= self.limit {
                return None;
            }
            if self.depth > 0 {
                self.outer.push(self.objects);
            }
        }
        self.objects = self.objects << 1 | u64::from(container == Container::Object);
        self.depth += 1;
        Some(())
    }

    fn pop(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.objects >>= 1;
        if self.depth.is_multiple_of(64) {
            self.objects = self.outer.pop().unwrap_or_default();
        }
    }

    fn in_object(&self) -> bool {
        self.objects & 1 == 1
    }

    /// The state after a comma in the innermost container.
    fn after_comma(&self) -> State {
        if self.in_object() { State::Key } else { State::Value }
    }

    fn is_empty(&self) -> bool {
        self.depth == 0
    }
}
