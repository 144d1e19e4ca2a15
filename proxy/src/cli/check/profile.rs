//! The steps of one profile: credentials, clock, signature, `initialize`, `tools/list`, and closing its session.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::advice;
use super::clock::{SET_IT, Skew, Verdict};
use super::report::{Name, Profile, Step};
use crate::broker::Broker;
use crate::budget::Budget;
use crate::config::{Config, ProfileName, ToolPolicy};
use crate::error::{Error, printable};
use crate::metadata::Metadata;
use crate::protocol::{self, META_CAPABILITIES, META_CLIENT, META_VERSION};
use crate::session::{Link, Live, Outcome, outcome};
use crate::signer::Signer;
use crate::upstream::{Answer, Reply, Sent, Upstream};
use crate::wire::{self, Envelope, Id, Object};

/// The latest protocol version with sessions. Servers answer with the version that they support.
const VERSION: &str = "2025-11-25";
/// The first version without sessions.
const STATELESS: &str = "2026-07-28";
/// How long closing a session may take.
const END: Duration = Duration::from_secs(2);
/// The limit for pages of tools: a server whose list never ends has failed.
const MAX_PAGES: usize = 1000;
/// The longest part of a name chosen by the server that is shown, in characters.
const MAX_NAME: usize = 128;

/// State that the checks of all profiles share.
#[derive(Debug)]
pub(super) struct Checker<'a> {
    config: &'a Config,
    broker: Broker,
    signer: Signer,
    upstream: Arc<Upstream>,
    metadata: Arc<Metadata>,
    budget: Budget,
    /// The open sessions.
    open: Mutex<Vec<(Arc<Link>, Arc<Live>)>>,
}

/// The protocol of the server.
enum Protocol {
    Session(Arc<Live>),
    Stateless(HeaderValue),
}

impl<'a> Checker<'a> {
    pub(super) fn new(
        config: &'a Config,
        broker: Broker,
        upstream: Arc<Upstream>,
        budget: Budget,
    ) -> Self {
        let signer = Signer::new(broker.clone());
        let metadata = Arc::new(Metadata::new(config, broker.clone()));
        Self { config, broker, signer, upstream, metadata, budget, open: Mutex::default() }
    }

    /// Runs all steps of one profile; without `is_open`, nothing is sent to the server.
    pub(super) async fn of(&self, name: &ProfileName, is_open: bool) -> Profile {
        let mut profile = Profile { name: name.to_string(), ..Profile::default() };
        // A failure leaves the Region unknown; the next step reports the cause.
        let _ = self.metadata.load().await;
        let text = self.initialize(name);
        let (step, signature) = self.credentials(name, &text, &mut profile).await;
        let can_sign = step.mark != super::report::Mark::Failed;
        profile.steps.push(step);
        if can_sign && is_open {
            self.exchange(name, text, signature, &mut profile).await;
        }
        // Steps that were skipped because an earlier one failed.
        for step in [Name::Clock, Name::Signature, Name::Initialize, Name::ToolsList] {
            if !profile.steps.iter().any(|known| known.name == step) {
                profile.steps.push(Step::skipped(step, ""));
            }
        }
        profile
    }

    /// Closes the sessions that an interrupted check has left open.
    pub(super) async fn end_all(&self) {
        let open = std::mem::take(&mut *self.open());
        let ends = open.iter().map(|(link, live)| link.end(live));
        let _ = tokio::time::timeout(END, futures_util::future::join_all(ends)).await;
    }

    fn initialize(&self, name: &ProfileName) -> String {
        let client = format!(
            r#"{{"name":"sigward-proxy check","version":{}}}"#,
            wire::quote(env!("CARGO_PKG_VERSION"))
        );
        let params = format!(
            r#"{{"protocolVersion":"{VERSION}","capabilities":{{}},"clientInfo":{client}}}"#
        );
        let text = wire::request(&id("initialize"), "initialize", &params);
        wire::with_metadata(text, &self.metadata.of(name))
    }

    /// Has exactly the request signed that is sent next.
    async fn credentials(
        &self,
        name: &ProfileName,
        text: &str,
        profile: &mut Profile,
    ) -> (Step, Option<(HeaderMap, Instant)>) {
        let mut headers = protocol::post_headers();
        for (header, value) in &self.config.headers {
            headers.append(header, value.clone());
        }
        let (url, body) = (&self.config.endpoint, Bytes::copy_from_slice(text.as_bytes()));
        let begun = Instant::now();
        let signed = self.signer.sign(name, &Method::POST, url, &headers, &body).await;
        let time = begun.elapsed();
        match signed {
            Ok(signature) => {
                let scope = scope(&signature.headers).unwrap_or_default();
                let (key, scope) = scope.split_once('/').unwrap_or((&scope, ""));
                key.clone_into(&mut profile.access_key_id);
                let detail = format!("the key {key} signs for {scope}");
                (
                    Step::passed(Name::Credentials, time, detail),
                    Some((signature.headers, Instant::now())),
                )
            }
            Err(error) if self.config.skip_auth && error.has_no_credentials() => {
                let advice =
                    "give the profile credentials if the server requires a signature".to_owned();
                let detail = "there are none: requests are sent unsigned (--skip-auth)";
                (Step::warned(Name::Credentials, detail, advice), None)
            }
            Err(error) => {
                let (step, advice) = advice::of_broker(&error, name, self.broker.address());
                (Step::failed(step, Some(time), error.to_string(), advice), None)
            }
        }
    }

    async fn exchange(
        &self,
        name: &ProfileName,
        text: String,
        signature: Option<(HeaderMap, Instant)>,
        profile: &mut Profile,
    ) {
        let link = Link::new(
            name.clone(),
            Arc::clone(&self.upstream),
            self.budget.clone(),
            Arc::clone(&self.metadata),
        );
        let link = Arc::new(link);
        let begun = Instant::now();
        let headers = protocol::post_headers();
        let answer = match link.post_unbound(headers, text, false, Sent::default()).await {
            Ok(answer) => answer,
            Err(error) => return profile.steps.push(self.failed(name, &error, begun)),
        };
        let time = begun.elapsed();
        let is_refused = matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        profile.steps.push(clock(signature.as_ref(), &answer, is_refused));
        if let (Reply::Failure(failure), true) = (&answer.reply, is_refused) {
            let advice = advice::status(failure.status, failure.detail.as_deref(), &answer.headers);
            let detail = failure.error().to_string();
            profile.steps.push(Step::failed(Name::Signature, Some(time), detail, advice));
            return;
        }
        profile.steps.push(match &signature {
            Some(_) => Step::passed(Name::Signature, time, "the server accepts it"),
            None => Step::skipped(Name::Signature, "none was sent"),
        });
        if let Some(protocol) = self.opened(name, &link, answer, begun, profile).await {
            let listed = self.tools(name, &link, &protocol, profile).await;
            profile.steps.push(listed);
            if let Protocol::Session(live) = protocol {
                let _ = tokio::time::timeout(END, link.end(&live)).await;
                self.open().retain(|(_, known)| !Arc::ptr_eq(known, &live));
            }
        }
    }

    /// Reads the answer to `initialize`. If it failed, tries the protocol without sessions.
    async fn opened(
        &self,
        name: &ProfileName,
        link: &Arc<Link>,
        answer: Answer,
        begun: Instant,
        profile: &mut Profile,
    ) -> Option<Protocol> {
        let session_id = answer.session_id();
        let headers = answer.headers.clone();
        let (detail, advice) = match answer.reply {
            Reply::Failure(failure) if failure.message.is_none() => {
                let advice = advice::status(failure.status, failure.detail.as_deref(), &headers);
                let step = Step::failed(
                    Name::Initialize,
                    Some(begun.elapsed()),
                    failure.error().to_string(),
                    advice,
                );
                profile.steps.push(step);
                return None;
            }
            reply => match outcome(reply, &id("initialize")).await {
                Ok(Outcome::Result(result)) => match described(&result) {
                    Some((version, server)) => {
                        let live = Live::opened(session_id, &result, 1);
                        self.open().push((Arc::clone(link), Arc::clone(&live)));
                        let ready = wire::notification("notifications/initialized", None);
                        let sent = link.post(&live, ready, Sent::default()).await;
                        if let Err(error) = sent {
                            profile.steps.push(self.failed(name, &error, begun));
                            return None;
                        }
                        let detail = format!("MCP {version}, {server}");
                        (profile.protocol, profile.server) = (version, server);
                        profile.steps.push(Step::passed(Name::Initialize, begun.elapsed(), detail));
                        return Some(Protocol::Session(live));
                    }
                    None => {
                        let error = Error::NotMessage("its result has no protocolVersion");
                        profile.steps.push(self.failed(name, &error, begun));
                        return None;
                    }
                },
                Ok(Outcome::Refused(words)) => {
                    let words = printable(&words, 300);
                    (format!("the server refuses the request: {words}"), None)
                }
                Err(error) => (error.to_string(), advice::exchange(&error)),
            },
        };
        match self.discovered(name, link, profile).await {
            Some(version) => {
                let detail =
                    format!("MCP {}, {}, without sessions", profile.protocol, profile.server);
                profile.steps.push(Step::passed(Name::Initialize, begun.elapsed(), detail));
                Some(Protocol::Stateless(version))
            }
            None => {
                profile.steps.push(Step::failed(
                    Name::Initialize,
                    Some(begun.elapsed()),
                    detail,
                    advice,
                ));
                None
            }
        }
    }

    /// Whether the server supports the protocol version without sessions.
    async fn discovered(
        &self,
        name: &ProfileName,
        link: &Link,
        profile: &mut Profile,
    ) -> Option<HeaderValue> {
        let version = HeaderValue::from_static(STATELESS);
        let result =
            self.ask_stateless(name, link, &version, "server/discover", "{}").await.ok()?;
        let Outcome::Result(result) = result else { return None };
        let result = Object::parse(&result).ok()?;
        let info = result
            .find_object("_meta")
            .and_then(|meta| meta.find_object("io.modelcontextprotocol/serverInfo"))
            .or_else(|| result.find_object("serverInfo"));
        profile.protocol = STATELESS.to_owned();
        profile.server = info.as_ref().map_or_else(|| "a server without a name".to_owned(), server);
        Some(version)
    }

    async fn ask_stateless(
        &self,
        name: &ProfileName,
        link: &Link,
        version: &HeaderValue,
        method: &str,
        params: &str,
    ) -> Result<Outcome, Error> {
        let id = id(method);
        let client = format!(
            r#"{{"name":"sigward-proxy check","version":{}}}"#,
            wire::quote(env!("CARGO_PKG_VERSION"))
        );
        let mut members = vec![
            (META_VERSION.to_owned(), wire::quote(STATELESS)),
            (META_CLIENT.to_owned(), client),
            (META_CAPABILITIES.to_owned(), "{}".to_owned()),
        ];
        members.extend(self.metadata.of(name).iter().cloned());
        let text = wire::with_metadata(wire::request(&id, method, params), &members);
        let mut headers = protocol::post_headers();
        if let Ok(envelope) = Envelope::parse(&text) {
            protocol::mirror(&mut headers, version, &envelope, &[]);
        }
        let answer = link.post_unbound(headers, text, false, Sent::default()).await?;
        outcome(answer.reply, &id).await
    }

    /// Lists all pages of tools.
    async fn tools(
        &self,
        name: &ProfileName,
        link: &Link,
        protocol: &Protocol,
        profile: &mut Profile,
    ) -> Step {
        let begun = Instant::now();
        let (mut tools, mut hidden) = (Vec::new(), 0);
        let mut params = "{}".to_owned();
        for _ in 0..MAX_PAGES {
            let asked = match protocol {
                Protocol::Stateless(version) => {
                    self.ask_stateless(name, link, version, "tools/list", &params).await
                }
                Protocol::Session(live) => {
                    let id = id("tools/list");
                    let text = wire::request(&id, "tools/list", &params);
                    let text = wire::with_metadata(text, &self.metadata.of(name));
                    match link.post(live, text, Sent::default()).await {
                        Ok(answer) => outcome(answer.reply, &id).await,
                        Err(error) => Err(error),
                    }
                }
            };
            let result = match asked {
                Ok(Outcome::Result(result)) => result,
                Ok(Outcome::Refused(words)) => {
                    let detail = format!("the server refuses it: {}", printable(&words, 300));
                    return Step::failed(Name::ToolsList, Some(begun.elapsed()), detail, None);
                }
                Err(error) => {
                    let (_, advice) = advice::of_broker(&error, name, self.broker.address());
                    let advice = advice.or_else(|| advice::exchange(&error));
                    let time = Some(begun.elapsed());
                    return Step::failed(Name::ToolsList, time, error.to_string(), advice);
                }
            };
            let Some((page, next)) = page(&result) else {
                let detail = "the server's list of tools isn't valid MCP";
                return Step::failed(Name::ToolsList, Some(begun.elapsed()), detail, None);
            };
            for (tool, reads) in page {
                match is_exposed(&self.config.tools, &tool, reads) {
                    true => tools.push(printable(&tool, MAX_NAME)),
                    false => hidden += 1,
                }
            }
            let Some(next) = next else {
                let mut detail = format!("{} tools", tools.len());
                if hidden > 0 {
                    detail = format!(
                        "{detail}; {hidden} hidden by --tools-allow, --tools-deny or --read-only"
                    );
                }
                profile.tools = Some(tools);
                return Step::passed(Name::ToolsList, begun.elapsed(), detail);
            };
            params = format!(r#"{{"cursor":{}}}"#, wire::quote(&next));
        }
        let detail = format!("the list of tools doesn't end after {MAX_PAGES} pages");
        Step::failed(Name::ToolsList, Some(begun.elapsed()), detail, None)
    }

    /// A failed exchange, as the step that it belongs to.
    fn failed(&self, name: &ProfileName, error: &Error, begun: Instant) -> Step {
        let (step, advice) = match error {
            Error::Refused(_)
            | Error::BrokerUnreachable { .. }
            | Error::PrivateBroker { .. }
            | Error::BrokerSlow { .. } => advice::of_broker(error, name, self.broker.address()),
            _ => (Name::Initialize, advice::exchange(error)),
        };
        Step::failed(step, Some(begun.elapsed()), error.to_string(), advice)
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Vec<(Arc<Link>, Arc<Live>)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn id(method: &str) -> Id {
    Id::from_token(&wire::quote(&format!("sigward-check-{method}")))
}

/// Access key id and scope of a signature, which aren't secret: `AKID/20261125/us-east-1/aws-mcp/aws4_request`.
fn scope(signature: &HeaderMap) -> Option<String> {
    let header = signature.get(AUTHORIZATION)?.to_str().ok()?;
    let scope = header.split("Credential=").nth(1)?.split([',', ' ']).next()?;
    Some(printable(scope, 200))
}

fn clock(signature: Option<&(HeaderMap, Instant)>, answer: &Answer, is_refused: bool) -> Step {
    let skew = signature.and_then(|(headers, at)| Skew::of(headers, at.elapsed(), &answer.headers));
    let Some(skew) = skew else {
        return Step::skipped(Name::Clock, "the server's answer has no time");
    };
    match skew.verdict() {
        Verdict::Good => Step::passed(Name::Clock, Duration::ZERO, skew.shown()),
        Verdict::TooMuch if is_refused => {
            Step::failed(Name::Clock, None, skew.shown(), Some(SET_IT.to_owned()))
        }
        Verdict::Noticed | Verdict::TooMuch => {
            Step::warned(Name::Clock, skew.shown(), SET_IT.to_owned())
        }
    }
}

/// Protocol version and server name in a result of `initialize`.
fn described(result: &str) -> Option<(String, String)> {
    let result = Object::parse(result).ok()?;
    let version = printable(&result.find_string("protocolVersion")?, MAX_NAME);
    let info = result.find_object("serverInfo");
    Some((version, info.as_ref().map_or_else(|| "a server without a name".to_owned(), server)))
}

fn server(info: &Object<'_>) -> String {
    let text = |name| info.find_string(name).unwrap_or_default().into_owned();
    printable(format!("{} {}", text("name"), text("version")).trim(), MAX_NAME)
}

/// The tools of a page, each with its read-only hint, and the cursor of the next page.
type Page = (Vec<(String, bool)>, Option<String>);

fn page(result: &str) -> Option<Page> {
    let result = Object::parse(result).ok()?;
    let tools = wire::elements(result.find("tools")?).ok()?.into_iter().map(|tool| {
        let tool = Object::parse(tool).ok()?;
        let annotations = tool.find_object("annotations");
        let reads = annotations.is_some_and(|it| it.find("readOnlyHint") == Some("true"));
        Some((tool.find_string("name")?.into_owned(), reads))
    });
    let tools: Option<Vec<_>> = tools.collect();
    let next = result.find_string("nextCursor").map(std::borrow::Cow::into_owned);
    Some((tools?, next))
}

/// Whether a client would see the tool.
fn is_exposed(policy: &ToolPolicy, name: &str, reads: bool) -> bool {
    !policy.deny.matches(name)
        && (policy.allow.is_empty() || policy.allow.matches(name))
        && (reads || !policy.read_only)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_and_scope_are_shown_and_no_signature() {
        let mut headers = HeaderMap::new();
        let value = "AWS4-HMAC-SHA256 Credential=AKID/20261125/us-east-1/aws-mcp/aws4_request, \
                     SignedHeaders=host, Signature=c0ffee";
        headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
        assert_eq!(
            scope(&headers).as_deref(),
            Some("AKID/20261125/us-east-1/aws-mcp/aws4_request")
        );
        assert_eq!(scope(&HeaderMap::new()), None);
    }

    #[test]
    fn a_page_of_tools_is_read() {
        let text = r#"{"tools":[{"name":"a","annotations":{"readOnlyHint":true}},{"name":"b"}],"nextCursor":"2"}"#;
        let tools = vec![("a".to_owned(), true), ("b".to_owned(), false)];
        assert_eq!(page(text), Some((tools, Some("2".to_owned()))));
        for other in [r#"{"tools":{}}"#, r#"{"tools":[{}]}"#, "{}", "[]"] {
            assert_eq!(page(other), None, "{other}");
        }
    }
}
