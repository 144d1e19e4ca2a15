//! The suite's server: it answers every request.
#![allow(deprecated, reason = "the log level is a duty of the sessions up to 2025-11-25")]

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, ClientCapabilities, CompleteRequestParams,
    CompleteResult, GetPromptRequestParams, GetPromptResponse, ListPromptsResult,
    ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams,
    ProgressNotificationParam, ProtocolVersion, ReadResourceRequestParams, ReadResourceResponse,
    ServerConfig, ServerNotification, SetLevelRequestMethod, SetLevelRequestParams,
    SubscribeRequestParams, SubscriptionFilter, UnsubscribeRequestParams,
};
use rmcp::service::{RequestContext, SubscriptionContext};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::asking::{self, Round, Said};
use super::{contents, tools};

type Context = RequestContext<RoleServer>;

/// The time between two reports of the tools that report progress, as the suite requires.
const STEP: Duration = Duration::from_millis(50);

/// The changes that subscribers are notified of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Announcement {
    /// The list of tools changed.
    Tools,
    /// The list of prompts changed.
    Prompts,
}

/// The handler of one session, or of one request without a session.
#[derive(Debug)]
pub(super) struct Suite {
    announcements: broadcast::Sender<Announcement>,
    /// Subscribed from the start, since a client may cause a change directly after its acknowledgement.
    heard: Mutex<Option<broadcast::Receiver<Announcement>>>,
}

impl Suite {
    pub(super) fn new(announcements: broadcast::Sender<Announcement>) -> Self {
        let heard = Mutex::new(Some(announcements.subscribe()));
        Self { announcements, heard }
    }

    async fn tool(
        &self,
        call: &CallToolRequestParams,
        context: &Context,
    ) -> Result<Said, ErrorData> {
        let name = call.name.as_ref();
        if let Some(result) = tools::at_once(name) {
            return Ok(Said::Complete(result));
        }
        let round = Round {
            answers: call.input_responses.as_ref(),
            state: call.request_state.as_deref(),
            client: context.client_capabilities().unwrap_or_default(),
        };
        if let Some(said) = asking::tool(name, &round) {
            return said;
        }
        let argument = |name: &str| {
            let value = call.arguments.as_ref().and_then(|arguments| arguments.get(name));
            value.and_then(Value::as_str).unwrap_or_default()
        };
        let said = match name {
            "test_tool_with_logging" => {
                let steps = ["started", "processing data", "completed"];
                for (number, step) in steps.into_iter().enumerate() {
                    if number > 0 {
                        tokio::time::sleep(STEP).await;
                    }
                    log(context, &format!("Tool {step}")).await?;
                }
                "Logged three messages".to_owned()
            }
            "test_logging_tool" => {
                if context.meta.log_level().is_some() {
                    log(context, "A message for who asked for it").await?;
                }
                "Done".to_owned()
            }
            "test_tool_with_progress" => {
                progress(context).await?;
                "Done".to_owned()
            }
            "test_sampling" => {
                let answer = ask(context, asking::sample(argument("prompt"), 100)).await?;
                let text = answer["content"]["text"].as_str().unwrap_or_default();
                format!("LLM response: {text}")
            }
            "test_missing_capability" => {
                if round.client.sampling.is_none() {
                    let missing: ClientCapabilities = parsed(json!({"sampling": {}}))?;
                    return Err(ErrorData::missing_required_client_capability(missing));
                }
                "The client samples".to_owned()
            }
            "test_trigger_tool_change" => self.announce(Announcement::Tools),
            "test_trigger_prompt_change" => self.announce(Announcement::Prompts),
            _ => {
                let Some((message, schema)) = asking::form(name, argument("message")) else {
                    let text = format!("Unknown tool: {name}");
                    return Err(ErrorData::invalid_params(text, None));
                };
                let answer = ask(context, asking::elicitation(&message, &schema)).await?;
                let action = answer["action"].as_str().unwrap_or_default();
                format!("Elicitation completed: action={action}, content={}", answer["content"])
            }
        };
        Ok(Said::Complete(tools::text(&said)))
    }

    /// Announces that a list changed. It didn't, but the suite only tests the notification.
    fn announce(&self, announcement: Announcement) -> String {
        // There may be no receiver.
        let _ = self.announcements.send(announcement);
        "Announced".to_owned()
    }
}

impl ServerHandler for Suite {
    fn get_info(&self) -> ServerConfig {
        let info = json!({
            "protocolVersion": ProtocolVersion::LATEST_WITH_INITIALIZE,
            "serverInfo": {"name": "conformance-upstream", "version": "1.0"},
            "capabilities": {
                "completions": {},
                "logging": {},
                "prompts": {"listChanged": true},
                "resources": {"subscribe": true},
                "tools": {"listChanged": true},
            },
        });
        parsed(info).expect("the server's own description")
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListToolsResult, ErrorData> {
        whole(json!({"tools": tools::tools()}))
    }

    async fn call_tool(
        &self,
        call: CallToolRequestParams,
        context: Context,
    ) -> Result<CallToolResponse, ErrorData> {
        Ok(match self.tool(&call, &context).await? {
            Said::Complete(result) => CallToolResponse::Complete(whole(result)?),
            Said::Asked(result) => CallToolResponse::InputRequired(parsed(result)?),
        })
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListPromptsResult, ErrorData> {
        whole(json!({"prompts": contents::prompts()}))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: Context,
    ) -> Result<GetPromptResponse, ErrorData> {
        if request.name == "test_input_required_result_prompt" {
            let round = Round {
                answers: request.input_responses.as_ref(),
                state: request.request_state.as_deref(),
                client: context.client_capabilities().unwrap_or_default(),
            };
            return Ok(match asking::prompt(&round) {
                Said::Complete(result) => GetPromptResponse::Complete(whole(result)?),
                Said::Asked(result) => GetPromptResponse::InputRequired(parsed(result)?),
            });
        }
        let argument = |name: &str| {
            let value = request.arguments.as_ref().and_then(|arguments| arguments.get(name));
            value.and_then(Value::as_str).unwrap_or_default()
        };
        let Some(messages) = contents::prompt(&request.name, argument) else {
            let text = format!("Unknown prompt: {}", request.name);
            return Err(ErrorData::invalid_params(text, None));
        };
        Ok(GetPromptResponse::Complete(whole(json!({"messages": messages}))?))
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListResourcesResult, ErrorData> {
        whole(json!({"resources": contents::resources()}))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        whole(json!({"resourceTemplates": contents::templates()}))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: Context,
    ) -> Result<ReadResourceResponse, ErrorData> {
        match contents::resource(&request.uri) {
            Some(result) => Ok(ReadResourceResponse::Complete(whole(result)?)),
            None => {
                let data = json!({"uri": request.uri});
                Err(ErrorData::resource_not_found("Resource not found", Some(data)))
            }
        }
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _: Context,
    ) -> Result<CompleteResult, ErrorData> {
        let known = ["paris", "park", "party"];
        let values: Vec<_> =
            known.iter().filter(|value| value.starts_with(&request.argument.value)).collect();
        whole(json!({"completion": {"total": values.len(), "values": values, "hasMore": false}}))
    }

    async fn set_level(&self, _: SetLevelRequestParams, context: Context) -> Result<(), ErrorData> {
        if is_stateless(&context) {
            return Err(ErrorData::method_not_found::<SetLevelRequestMethod>());
        }
        Ok(())
    }

    async fn subscribe(&self, _: SubscribeRequestParams, _: Context) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn unsubscribe(&self, _: UnsubscribeRequestParams, _: Context) -> Result<(), ErrorData> {
        Ok(())
    }

    fn accepted_subscription_filter(
        &self,
        requested: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut heard = heard.unwrap_or_else(|| self.announcements.subscribe());
        loop {
            let announcement = tokio::select! {
                announcement = heard.recv() => announcement,
                () = context.cancelled() => return Ok(()),
            };
            // rmcp refuses notifications that the client didn't request.
            let _ = match announcement {
                Ok(Announcement::Tools) => context.sink().notify_tool_list_changed().await,
                Ok(Announcement::Prompts) => context.sink().notify_prompt_list_changed().await,
                Err(_) => return Ok(()),
            };
        }
    }
}

/// Sends a request of the tool to the client, and returns the result.
async fn ask(context: &Context, request: Value) -> Result<Value, ErrorData> {
    let answer = context.peer.send_request(parsed(request)?).await.map_err(failed)?;
    serde_json::to_value(answer).map_err(failed)
}

async fn log(context: &Context, text: &str) -> Result<(), ErrorData> {
    let notification: ServerNotification = parsed(json!({
        "method": "notifications/message",
        "params": {"level": "info", "data": text},
    }))?;
    context.peer.send_notification(notification).await.map_err(failed)
}

async fn progress(context: &Context) -> Result<(), ErrorData> {
    for (number, percent) in [0, 50, 100].into_iter().enumerate() {
        if number > 0 {
            tokio::time::sleep(STEP).await;
        }
        let Some(token) = context.meta.get_progress_token() else { continue };
        let report: ProgressNotificationParam =
            parsed(json!({"progressToken": token, "progress": percent, "total": 100}))?;
        context.peer.notify_progress(report).await.map_err(failed)?;
    }
    Ok(())
}

fn is_stateless(context: &Context) -> bool {
    let version = context.protocol_version();
    version.is_some_and(|version| version.as_str() >= ProtocolVersion::V_2026_07_28.as_str())
}

/// A complete result. rmcp omits the mark for the version that doesn't have it.
fn whole<T: DeserializeOwned>(mut result: Value) -> Result<T, ErrorData> {
    result["resultType"] = "complete".into();
    parsed(result)
}

/// rmcp's type of a message that is written as JSON here, which is shorter, and as in the suite's documentation.
fn parsed<T: DeserializeOwned>(message: Value) -> Result<T, ErrorData> {
    serde_json::from_value(message).map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}
