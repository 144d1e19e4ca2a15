//! One rule, and its verdict on a call.

use std::sync::Arc;

use sigward_proto::call::{Fault, Kind, Place, Target, Value, Want};
use wildmatch::WildMatch;

use crate::call::Call;
use crate::config::{self, Agent, Must, Names, Rate, Scalar};
use crate::peer::PeerPattern;

/// A compiled rule.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) peer: PeerPattern,
    pub(super) profiles: Names,
    pub(super) endpoints: Names,
    methods: Option<Globs>,
    tools: Option<Globs>,
    resources: Option<Globs>,
    prompts: Option<Globs>,
    arguments: Vec<Condition>,
    reads_the_body: bool,
    pub(super) rate: Option<Rate>,
    pub(super) login: bool,
    /// The identity of its peers at AWS.
    pub(super) agent: Option<Arc<Agent>>,
}

#[derive(Debug)]
struct Globs {
    allow: Option<Vec<WildMatch>>,
    deny: Vec<WildMatch>,
}

#[derive(Debug)]
struct Condition {
    tool: WildMatch,
    path: String,
    place: Place,
    must: Test,
}

#[derive(Debug)]
enum Test {
    BeIn(Vec<Scalar>),
    Match(Vec<WildMatch>),
    BeAbsent,
}

/// A rule's verdict on a call that it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The rule permits the call.
    Permits,
    /// This matcher denies the call, and other rules can't permit it.
    Denies(Matcher),
    /// The rule doesn't permit the call: this matcher would have to.
    DoesNotPermit(Matcher),
    /// Its condition on this argument isn't met.
    Argument(String),
    /// Parsers may read differently an argument that it looks at.
    Ambiguous(String),
}

/// The part of a rule that decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matcher {
    /// `methods`
    Methods,
    /// `tools`
    Tools,
    /// `resources`
    Resources,
    /// `prompts`
    Prompts,
}

/// The part of a call that a rule permits or denies.
enum Subject<'c> {
    /// Methods that open and maintain a session.
    Session,
    Tool(&'c str),
    Task,
    Resource(&'c str),
    Prompt(&'c str),
    Other,
}

impl Rule {
    /// Compiles a rule; adds what it looks at to `want`.
    pub(super) fn new(rule: &config::Rule, want: &mut Want) -> Self {
        let arguments = rule.arguments.iter().filter_map(|argument| {
            Some(Condition {
                tool: WildMatch::new(&argument.tool),
                path: argument.path.clone(),
                // The configuration was checked for valid pointers.
                place: want.look_at(&format!("/arguments{}", argument.path)).ok()?,
                must: Test::new(&argument.must),
            })
        });
        Self {
            name: rule.name.clone(),
            peer: rule.peer.clone(),
            profiles: rule.profiles.clone(),
            endpoints: rule.endpoints.clone(),
            arguments: arguments.collect(),
            reads_the_body: rule.reads_the_body(),
            methods: rule.methods.as_ref().map(Globs::new),
            tools: rule.tools.as_ref().map(Globs::new),
            resources: rule.resources.as_ref().map(Globs::new),
            prompts: rule.prompts.as_ref().map(Globs::new),
            rate: rule.rate,
            login: rule.login,
            agent: rule.agent.clone(),
        }
    }

    /// Whether the rule has conditions on the body.
    pub(super) fn reads_the_body(&self) -> bool {
        self.reads_the_body
    }

    /// The rule's verdict on a call.
    pub(super) fn judge(&self, call: &Call) -> Verdict {
        let subject = Subject::of(call);
        if let Some(matcher) = self.denies(call, &subject) {
            return Verdict::Denies(matcher);
        }
        if !self.reads_the_body() || matches!(subject, Subject::Session) {
            return Verdict::Permits;
        }
        // A rule about tools, resources or prompts decides about those. A method that no matcher is
        // about must be allowed by name: later versions of MCP add methods.
        let (matcher, globs, name) = match subject {
            Subject::Tool(name) => (Matcher::Tools, &self.tools, Some(name)),
            Subject::Task => (Matcher::Tools, &self.tools, None),
            Subject::Resource(uri) => (Matcher::Resources, &self.resources, Some(uri)),
            Subject::Prompt(name) => (Matcher::Prompts, &self.prompts, Some(name)),
            Subject::Session | Subject::Other => (Matcher::Methods, &None, None),
        };
        let permitted = match globs {
            Some(globs) if !name.is_none_or(|name| globs.allows(name)) => {
                return Verdict::DoesNotPermit(matcher);
            }
            Some(_) => true,
            None => self.methods.as_ref().is_some_and(|methods| methods.names(call.method())),
        };
        if !permitted {
            return Verdict::DoesNotPermit(Matcher::Methods);
        }
        match subject {
            Subject::Tool(name) => self.check_arguments(name, call),
            _ => Verdict::Permits,
        }
    }

    fn denies(&self, call: &Call, subject: &Subject<'_>) -> Option<Matcher> {
        let denies = |globs: &Option<Globs>, name: &str| {
            globs.as_ref().is_some_and(|globs| globs.denies(name))
        };
        let by_target = match subject {
            Subject::Tool(name) => denies(&self.tools, name).then_some(Matcher::Tools),
            Subject::Resource(uri) => denies(&self.resources, uri).then_some(Matcher::Resources),
            Subject::Prompt(name) => denies(&self.prompts, name).then_some(Matcher::Prompts),
            Subject::Session | Subject::Task | Subject::Other => None,
        };
        by_target.or_else(|| {
            let is_method = call.kind() != Kind::Response;
            (is_method && denies(&self.methods, call.method())).then_some(Matcher::Methods)
        })
    }

    fn check_arguments(&self, tool: &str, call: &Call) -> Verdict {
        for condition in self.arguments.iter().filter(|condition| condition.tool.matches(tool)) {
            match call.value(condition.place) {
                Ok(value) if condition.must.holds(value) => {}
                Ok(_) => return Verdict::Argument(condition.path.clone()),
                Err(fault) => return Verdict::Ambiguous(describe(&fault)),
            }
        }
        Verdict::Permits
    }
}

fn describe(fault: &Fault) -> String {
    fault.to_string()
}

impl<'c> Subject<'c> {
    fn of(call: &'c Call) -> Self {
        match (call.kind(), call.method(), call.target()) {
            (Kind::Response, _, _) => Self::Session,
            (_, _, Target::Tool(name)) => Self::Tool(name),
            (_, _, Target::Resource(uri)) => Self::Resource(uri),
            (_, _, Target::Prompt(name)) => Self::Prompt(name),
            (_, method, _) if method.starts_with("tasks/") => Self::Task,
            (Kind::Notification, method, _) if method.starts_with("notifications/") => {
                Self::Session
            }
            (
                _,
                "initialize"
                | "ping"
                | "server/discover"
                | "logging/setLevel"
                | "tools/list"
                | "resources/list"
                | "resources/templates/list"
                | "prompts/list"
                | "subscriptions/listen",
                _,
            ) => Self::Session,
            _ => Self::Other,
        }
    }
}

impl Globs {
    fn new(globs: &config::Globs) -> Self {
        let all = |globs: &[String]| globs.iter().map(|glob| WildMatch::new(glob)).collect();
        Self { allow: globs.allow.as_deref().map(all), deny: all(&globs.deny) }
    }

    /// Whether the name is allowed; without an allow list, all names are.
    fn allows(&self, name: &str) -> bool {
        self.allow.is_none() || self.names(name)
    }

    /// Whether an allow list contains the name.
    fn names(&self, name: &str) -> bool {
        self.allow.as_ref().is_some_and(|globs| globs.iter().any(|glob| glob.matches(name)))
    }

    fn denies(&self, name: &str) -> bool {
        self.deny.iter().any(|glob| glob.matches(name))
    }
}

impl Test {
    fn new(must: &Must) -> Self {
        match must {
            Must::BeIn(values) => Self::BeIn(values.clone()),
            Must::Match(globs) => {
                Self::Match(globs.iter().map(|glob| WildMatch::new(glob)).collect())
            }
            Must::BeAbsent => Self::BeAbsent,
        }
    }

    fn holds(&self, value: Option<&Value>) -> bool {
        match (self, value) {
            (Self::BeAbsent, value) => value.is_none(),
            (Self::BeIn(values), Some(value)) => values.iter().any(|wanted| is(wanted, value)),
            (Self::Match(globs), Some(Value::Text(text))) => {
                globs.iter().any(|glob| glob.matches(text))
            }
            (Self::BeIn(_) | Self::Match(_), _) => false,
        }
    }
}

/// Compares a value with a configured one. Numbers must be written as the configuration would write
/// them: some parsers read `5.0` and `5e0` as other values.
fn is(wanted: &Scalar, value: &Value) -> bool {
    match (wanted, value) {
        (Scalar::Text(wanted), Value::Text(text)) => wanted == text,
        (Scalar::Number(wanted), Value::Number(text)) => wanted.to_string() == *text,
        (Scalar::Bool(wanted), Value::Bool(flag)) => wanted == flag,
        (Scalar::Text(_) | Scalar::Number(_) | Scalar::Bool(_), _) => false,
    }
}

/// Compiles all rules, and collects what they look at.
pub(super) fn rules(config: &[config::Rule]) -> (Vec<Rule>, Arc<Want>) {
    let mut want = Want::default();
    let rules = config.iter().map(|rule| Rule::new(rule, &mut want)).collect();
    (rules, Arc::new(want))
}

impl std::fmt::Display for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Methods => "methods",
            Self::Tools => "tools",
            Self::Resources => "resources",
            Self::Prompts => "prompts",
        })
    }
}
