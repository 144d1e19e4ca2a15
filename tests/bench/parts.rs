//! Which measurements are made: all, or those named behind `--only`.

/// A group of figures that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Single calls, many at a time, and the memory after them.
    Calls,
    /// The start with one profile and with 1,000.
    Start,
    /// Memory of clients over HTTP.
    Clients,
    /// Large requests and results.
    Bodies,
    /// Messages of 16 MiB in shapes that are hard to read.
    Shapes,
    /// The comparison with mcp-proxy-for-aws, which needs Python and a package registry.
    Reference,
}

const ALL: [(&str, Part); 6] = [
    ("calls", Part::Calls),
    ("start", Part::Start),
    ("clients", Part::Clients),
    ("bodies", Part::Bodies),
    ("shapes", Part::Shapes),
    ("reference", Part::Reference),
];

/// The parts of one run.
#[derive(Debug)]
pub(crate) struct Parts(Vec<Part>);

impl Parts {
    /// Every part.
    pub(crate) fn all() -> Self {
        Self(ALL.map(|(_, part)| part).to_vec())
    }

    /// Those of a list such as `calls,start`; an error names the unknown part.
    pub(crate) fn named(list: &str) -> Result<Self, String> {
        let part = |name: &str| {
            let known = ALL.iter().find(|(it, _)| *it == name).map(|(_, part)| *part);
            known.ok_or_else(|| {
                let names = ALL.map(|(name, _)| name).join(", ");
                format!("--only: there is no part {name:?}; the parts are {names}")
            })
        };
        list.split(',').map(part).collect::<Result<_, _>>().map(Self)
    }

    /// Whether it is to be measured.
    pub(crate) fn has(&self, part: Part) -> bool {
        self.0.contains(&part)
    }
}
