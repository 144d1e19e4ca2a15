//! The spelling of sections and settings: plain most of the time, else in each way that parsers differ on.

use crate::dice::Dice;

/// A kind (`profile`, `sso-session`, `services`; empty in the credentials file) and a name, with the settings.
pub(super) type Section<'a> = ((&'a str, &'a str), Vec<(String, String)>);

/// How unusual the spelling of a pair of files is.
pub(super) struct Spelling {
    /// The percentage of lines that aren't plain.
    odd: usize,
}

impl Spelling {
    pub(super) fn new(odd: usize) -> Self {
        Self { odd }
    }

    fn is_odd(&self, dice: &mut Dice) -> bool {
        dice.chance(self.odd)
    }

    /// The bytes of a file.
    pub(super) fn file(&mut self, dice: &mut Dice, sections: &[Section<'_>]) -> Vec<u8> {
        let mut text = String::new();
        if self.is_odd(dice) && dice.chance(5) {
            text.push_str(dice.one_of(&["\u{feff}", "region = us-west-1\n", "\u{feff}# c\n"]));
        }
        if self.is_odd(dice) && dice.chance(15) {
            text.push_str("[DEFAULT]\nregion = us-west-1\n");
        }
        for ((kind, name), settings) in sections {
            if dice.chance(10) {
                text.push_str(dice.one_of(&["\n", "# c\n", "; c\n", "\n\n"]));
            }
            text.push_str(&self.header(dice, kind, name));
            text.push('\n');
            for (name, value) in settings {
                self.setting(dice, &mut text, name, value);
            }
        }
        let mut bytes = text.into_bytes();
        if bytes.last() == Some(&b'\n') && dice.chance(10) {
            bytes.pop();
        }
        if self.odd > 0 && dice.chance(6) {
            let end: &[u8] = if dice.chance(80) { b"\r\n" } else { b"\r" };
            bytes = bytes.split(|byte| *byte == b'\n').collect::<Vec<_>>().join(end);
        }
        if self.is_odd(dice) && dice.chance(8) && !bytes.is_empty() {
            // Latin-1, or bytes that aren't text.
            let at = dice.roll(bytes.len());
            bytes.insert(at, [0xe9, 0, 0xff][dice.roll(3)]);
        }
        bytes
    }

    fn header(&self, dice: &mut Dice, kind: &str, name: &str) -> String {
        let needs_quotes = name.contains(' ') && !kind.is_empty();
        let plain = match (kind, name) {
            ("profile", "default") if dice.chance(75) => "[default]".to_owned(),
            ("", name) => format!("[{name}]"),
            (kind, name) if needs_quotes && dice.chance(95) => {
                let quote = dice.one_of(&["\"", "'"]);
                format!("[{kind} {quote}{name}{quote}]")
            }
            (kind, name) => format!("[{kind} {name}]"),
        };
        if !self.is_odd(dice) {
            return plain;
        }
        let inner = plain.trim_matches(['[', ']']).to_owned();
        match dice.roll(26) {
            0 => format!("[{kind} \"{name}\"]"),
            1 => format!("[{kind} '{name}']"),
            2 => format!("[{kind}  {name}]"),
            3 => format!("[{kind}\t{name}]"),
            4 => format!("[ {inner}]"),
            5 => format!("[{inner} ]"),
            6 => format!("[ {inner} ]"),
            7 => format!("[{inner}] # c"),
            8 => format!("[{inner}]; c"),
            9 => format!("[{inner}] text"),
            10 => format!("[{inner}]]"),
            11 => format!("  [{inner}]"),
            12 => format!("[{inner}"),
            13 => format!("[{kind}x {name}]"),
            14 => format!("[{kind} {name} more]"),
            15 => format!("[{}]", inner.to_uppercase()),
            16 => format!("[\"{inner}\"]"),
            17 => format!("[{kind} \"{name}]"),
            18 => format!("[{kind}\u{a0}{name}]"),
            19 => format!("[{kind} {name}\\]"),
            20 => format!("[{kind} \"{}\"{}]", &name[..1], &name[1..]),
            21 => format!("[{kind}{name}]"),
            22 => format!("[profile {inner}]"),
            23 => format!("[{inner}][{inner}2]"),
            24 => format!("[{inner}]\t\r"),
            _ => format!("[{kind} # {name}]"),
        }
    }

    fn setting(&self, dice: &mut Dice, text: &mut String, name: &str, value: &str) {
        if self.is_odd(dice) {
            let before = dice.one_of(&[
                "# c\n",
                "; c\n",
                "  # c\n",
                "\t; c\n",
                "\n",
                "   \n",
                "cli_pager =\n",
                "not a setting\n",
                "= value\n",
                ": value\n",
                "rem x = y\n",
                "  indented = x\n",
                "#[profile p]\n",
                "output = json\noutput = text\n",
            ]);
            text.push_str(before);
        }
        if !self.is_odd(dice) {
            let between = if value.is_empty() || value.starts_with('\n') { " =" } else { " = " };
            text.push_str(&format!("{name}{between}{value}\n"));
            return;
        }
        let upper = name.to_uppercase();
        let mixed = format!("{}{}", upper.chars().next().unwrap_or_default(), &name[1..]);
        let line = match dice.roll(24) {
            0 => format!("{upper} = {value}"),
            1 => format!("{mixed} = {value}"),
            2 => format!("{name}={value}"),
            3 => format!("{name}: {value}"),
            4 => format!("{name} : {value}"),
            5 => format!("{name}\t=\t{value}\t"),
            6 => format!("{name} = {value} # c"),
            7 => format!("{name} = {value} ; c"),
            8 => format!("{name} = {value};c"),
            9 => format!("{name} = {value}#c"),
            10 => format!("{name} = \"{value}\""),
            11 => format!("{name} = '{value}'"),
            12 => format!("  {name} = {value}"),
            13 => format!("{name} =\n  {value}"),
            14 => format!("{name} = {value}\n  more"),
            15 => format!("{name} = {value}\n\n  more"),
            16 => format!("{name} = {value}\n{name} = {value}"),
            17 => format!("{name} = {value}\n{upper} = other"),
            18 => name.to_owned(),
            19 => format!(
                "{name} = {value}{}",
                dice.one_of(&["\u{a0}", "\u{c}", "\u{85}", "\u{2028}", "\u{200b}", "\u{b}"])
            ),
            20 => format!("\u{a0}{name} = {value}"),
            21 => format!("{name} == {value}"),
            22 => format!("{name} = {value}\n  # c\n  ; c"),
            _ => format!("{name} =\u{c}{value}"),
        };
        text.push_str(&line);
        text.push('\n');
    }
}
